"""Measure the error of each latent codec on a run's latents and on the outputs of its head.

    python tools/codecbench.py RUN

RUN is read from its newest checkpoint. For a run with float32 latents, codecs are calibrated on the rows that it
converted at its freeze and measured on later rows. For a run before its freeze, they are calibrated on every second
row and measured on the others, as `--latent-codec auto` does.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import BadInputError, Parser, count, render, run_tool
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seer_edge.training.session import Session

    Latents = NDArray[Any]
    """`[B, N, L]` float32."""

NOISES = 10
"""Number of noise samples of Rainbow's layers to average over."""


@dataclass(frozen=True)
class Figures:
    """The measurements of one codec: one line of the table."""

    codec: str
    latent_bytes: int
    clip_rate: float  # fraction of values outside the quantization range
    latent_error: float  # root mean square error, relative to the latents' root mean square
    output_error: float  # mean error, in standard deviations of each output
    largest_output_error: float
    same_choice: float | None  # fraction of rows with the same greedy action; None for continuous actions


def open_session(run: Path) -> tuple["Session", int]:
    """Open the newest checkpoint of a run with float32 latents.

    Return the session and the number of rows converted at the freeze. Raises BadInputError for any other run.
    """
    session, carried = open_any(run)
    return session, _float32_rows(run, session, carried)


def _float32_rows(run: Path, session: "Session", carried: int | None) -> int:
    if carried is None or session.replay.store.codec.name != "float32":
        raise BadInputError(f"{run}: has no float32 latents; give a run with float32 latents, or one before its freeze")
    return carried


def open_any(run: Path) -> tuple["Session", int | None]:
    """Open the newest checkpoint of a run.

    Return the session and the number of rows converted at the freeze, None before it. Raises BadInputError for a
    folder that is not a run.
    """
    from seer_edge.config.plan import make_plan
    from seer_edge.envs import make_env
    from seer_edge.machine.host import prepare_compute
    from seer_edge.runs import checkpoint
    from seer_edge.runs.run_folder import open_run
    from seer_edge.training.session import resume_session

    saved = checkpoint.newest(open_run(run).checkpoints)
    environment = make_env(saved.config.env, saved.config.env_options, seed=0, training=True)
    environment.close()
    prepare_compute(saved.config)
    with checkpoint.reading(saved.path):
        session, _ = resume_session(make_plan(saved.config, environment.spec, frozen=saved.frozen), saved)
        freeze = saved.run()["outcome"]["freeze"]
    return session, None if freeze is None else int(freeze["rows"])


def carried_rows_are_held(session: "Session", carried: int) -> bool:
    """Return whether the ring still holds all rows that were converted at the freeze, and later ones."""
    store = session.replay.store
    return 0 < carried < store.rows < store.capacity


def latents_of(session: "Session", first: int, end: int, at_most: int, least_age: int = 0) -> "Latents":
    """Return the first view's latents `[B, N, L]` of at most `at_most` evenly spaced rows.

    Rows are counted from the oldest in the ring, from `first` to `end`. Rows less than `least_age` steps into their
    episode are left out.
    """
    import numpy as np

    store = session.replay.store
    ids = np.unique(np.linspace(store.oldest + first, store.oldest + end - 1, at_most).astype(np.int64))
    ids = ids[store.columns.age[store.slots(ids)] >= least_age]
    out = np.zeros((len(ids), *store.observation_shape), np.float32)
    store.gather(ids, store.codec.plain(len(ids)), out)
    return out


def calibrating_latents(session: "Session", carried: int) -> "Latents":
    """Return the latents on which the freeze calibrated codecs: of evenly spaced rows without a blank frame.

    The ring must still hold all `carried` rows that were converted at the freeze.
    """
    from seer_edge.training.codec_choice import CALIBRATION_ROWS

    return latents_of(session, 0, carried, CALIBRATION_ROWS, session.config.settings.stack - 1)


def figures(session: "Session", name: str, seen: "Latents", later: "Latents") -> Figures:
    """Measure one codec on the latents `later`, calibrated on `seen`."""
    import numpy as np
    import torch

    from seer_edge.envs import Discrete
    from seer_edge.training.codec_choice import through
    from seer_edge.training.replay_rows import output_errors
    from seer_runtime.replay.codecs import latent_codec
    from seer_runtime.system.ledger import Ledger

    codec = latent_codec(name, later.shape[1:], 1, Ledger({}))
    codec.calibrate([seen])
    rounded = through(codec, later)
    exact, got = (session.agent.outputs(torch.from_numpy(z)).numpy() for z in (later, rounded))
    errors = output_errors(got, exact)
    discrete = isinstance(session.env.spec.actions, Discrete)
    return Figures(
        codec=name,
        latent_bytes=codec.row_bytes,
        clip_rate=codec.clip_rate or 0.0,
        latent_error=float(np.sqrt(np.square(rounded - later).mean() / np.square(later).mean())),
        output_error=float(errors.mean()),
        largest_output_error=float(errors.max()),
        same_choice=float((got.argmax(axis=1) == exact.argmax(axis=1)).mean()) if discrete else None,
    )


def silent(before: "Latents", after: "Latents") -> str:
    """Describe how many dimensions are zero on all rows up to the freeze, and how many of those are not later."""
    flat = [latents.reshape(len(latents), -1) for latents in (before, after)]
    never = ~flat[0].any(axis=0)
    speak = int((never & flat[1].any(axis=0)).sum())
    return (
        f"{int(never.sum())} of {len(never)} dimensions are zero on all {len(before):,} rows of the freeze; "
        f"{speak} of them are nonzero on some of {len(after):,} later rows"
    )


def noise_error(session: "Session", latents: "Latents") -> float:
    """Return the mean change of the outputs by the noise of Rainbow's layers, in standard deviations of each output."""
    import numpy as np
    import torch

    from seer_edge.training.replay_rows import output_errors

    agent: Any = session.agent
    inputs, generator = torch.from_numpy(latents), torch.Generator().manual_seed(0)
    exact, errors = agent.outputs(inputs).numpy(), []
    agent.head.mean_weights = agent.head.noisy_weights
    for _ in range(NOISES):
        agent.head.draw_noise(generator)
        errors.append(output_errors(agent.outputs(inputs).numpy(), exact).mean())
    del agent.head.mean_weights
    return float(np.mean(errors))


def measure(run: Path, rows: int) -> int:
    """Measure all codecs on the run, on at most `rows` later rows, and print the table."""
    session, carried = open_any(run)
    session.env.close()
    if carried is None and session.config.freeze_at is not None:
        _measure_before_the_freeze(session)
    else:
        rows_carried = _float32_rows(run, session, carried)
        if not carried_rows_are_held(session, rows_carried):
            raise BadInputError(
                f"{run}: lacks some rows of its freeze, or later ones; give a run whose ring is not full"
            )
        _measure_after_the_freeze(session, rows_carried, rows)
    return 0


def _measure_before_the_freeze(session: "Session") -> None:
    import numpy as np

    from seer_edge.training.codec_choice import trial_rows
    from seer_edge.training.replay_rows import encoded, without_blank_frames
    from seer_runtime.replay.codecs import LATENT_CODECS

    calibrating, held_out = trial_rows(session)
    seen, between = (
        np.concatenate(list(encoded(session.agent, session.replay, ids))) for ids in (calibrating, held_out)
    )
    _print_figures(session, seen, between)
    print(
        f"{session.env.spec.id}, step {session.timestep:,}, before the freeze: calibrated on {len(seen):,} rows, "
        f"measured on {len(between):,} rows between them; output errors in standard deviations"
    )
    whole = np.isin(held_out, without_blank_frames(session.replay, held_out))
    means = (
        f"{name} {figures(session, name, seen, between[whole]).output_error:.2%}"
        for name, codec in LATENT_CODECS.items()
        if codec.calibrated
    )
    print(f"output mean without the {int((~whole).sum())} rows with blank frames: {', '.join(means)}")
    if session.config.algo == "rainbow":
        print(f"the noise of the head's layers changes the outputs by {noise_error(session, between):.2%} on average")


def _measure_after_the_freeze(session: "Session", carried: int, rows: int) -> None:
    held = session.replay.store.rows
    seen = calibrating_latents(session, carried)
    later = latents_of(session, carried, held, rows)
    _print_figures(session, seen, later)
    print(
        f"{session.env.spec.id}, step {session.timestep:,}: calibrated on {len(seen):,} of {carried:,} rows converted "
        f"at the freeze, measured on {len(later):,} later rows; output errors in standard deviations"
    )
    print(silent(latents_of(session, 0, carried, carried), latents_of(session, carried, held, held - carried)))


def _print_figures(session: "Session", seen: "Latents", measured: "Latents") -> None:
    from seer_runtime.replay.codecs import LATENT_CODECS

    lines = [figures(session, name, seen, measured) for name in LATENT_CODECS]
    table = [
        (
            line.codec,
            f"{line.latent_bytes:,}",
            f"{line.clip_rate:.1e}",
            f"{line.latent_error:.2%}",
            f"{line.output_error:.2%}",
            f"{line.largest_output_error:.1%}",
            "-" if line.same_choice is None else f"{line.same_choice:.1%}",
        )
        for line in lines
    ]
    print(render(("codec", "B/latent", "clipped", "latent rms", "output mean", "output max", "same choice"), table))


def main() -> int:
    """Run the command line; return the exit status."""

    def run() -> int:
        parser = Parser(prog="codecbench.py", description=(__doc__ or "").splitlines()[0])
        parser.add_argument(
            "run", type=Path, metavar="RUN", help="folder of a run with float32 latents, or before its freeze"
        )
        parser.add_argument("--rows", type=count, default=3_000, metavar="N", help="later rows to measure on (3000)")
        flags = parser.parse_args()
        return measure(flags.run, flags.rows)

    return run_tool("codecbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
