"""`--latent-codec auto`, compared with a slow model of it and with a run that was given the same codec."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import seer_edge.training.codec_choice
from seer_edge.config.values import AUTO
from seer_edge.errors import BadInputError
from seer_edge.runs import checkpoint
from seer_edge.training.codec_choice import OUTPUT_ERROR_BOUND
from seer_edge.training.freeze import FreezeRefusedError
from seer_edge.training.replay_rows import output_errors
from seer_edge.training.session import resume_session
from seer_runtime import durable
from seer_runtime.replay.codecs import FRAMES
from seer_runtime.system.ledger import Line
from tests.runtime.naive_replay import quantizers
from tests.seer_edge.freeze_rig import Rig, assert_same, snapshot

pytestmark = pytest.mark.integration

Bound = Callable[[float], None]
DENSER = ("uint4", "uint8", "float16")
BOTH_OVER_LATENTS_OR_FRAMES = {"encoder": "canonical", "freeze_layers": 2}  # float32 of these are larger than a frame


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Bound:
    """Sets the accepted error."""
    return lambda value: monkeypatch.setattr(seer_edge.training.codec_choice, "OUTPUT_ERROR_BOUND", value)


def _naive_errors(run: Rig) -> dict[str, float]:
    """Compute the error of each codec element by element: every other row calibrates, the rows between are measured."""
    store = run.session.replay.store
    ids = run.held()[store.stack_is_whole(run.held())]
    rows = [run.env.rows()[row] for row in ids]
    latents = run.wanted(run.encoder(), rows)[:, run.center()]
    full = [index for index in range(0, len(rows), 2) if rows[index][1] >= store.stack - 1]
    seen, measured = latents[full], latents[1::2]
    exact = _outputs(run, measured)
    errors = {}
    for name in DENSER:
        flat = measured.reshape(len(measured), -1)
        if name == "float16":
            decoded = flat.astype(np.float16).astype(np.float32)
        else:
            columns = quantizers(seen, {"uint8": 255, "uint4": 15}[name])
            decoded = np.array([[column.decoded(x) for column, x in zip(columns, row, strict=True)] for row in flat])
        got = _outputs(run, decoded.reshape(measured.shape).astype(np.float32))
        spread = [math.sqrt(sum((x - column.mean()) ** 2 for x in column) / len(column)) for column in exact.T]
        errors[name] = float(np.mean([np.abs(row - want) / spread for row, want in zip(got, exact, strict=True)]))
    return errors


def _outputs(run: Rig, latents: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.no_grad():
        return run.session.agent.outputs(torch.from_numpy(latents)).numpy().astype(np.float64)


@pytest.mark.parametrize(
    ("agent", "chosen"),
    [
        *(("rainbow", "uint4"), ("rainbow", "float32"), ("curl-sac", "uint8"), ("curl-sac", "float16")),
        *(pytest.param("rainbow", chosen, marks=pytest.mark.slow) for chosen in ("uint8", "float16")),
        *(pytest.param("curl-sac", chosen, marks=pytest.mark.slow) for chosen in ("uint4", "float32")),
    ],
)
def test_the_densest_codec_below_the_bound_is_chosen(
    build_rig: Callable[..., Rig], bound: Bound, agent: str, chosen: str
) -> None:
    run = build_rig(agent, latent_codec=AUTO)
    run.steps(100)
    naive = _naive_errors(run)
    assert list(naive.values()) == sorted(naive.values(), reverse=True)
    bound(naive[chosen] * 1.01 if chosen in naive else naive["float16"] * 0.99)
    report = run.freeze()
    assert run.session.config.latent_codec == run.session.replay.store.codec.name == chosen
    tried = DENSER[: DENSER.index(chosen) + 1] if chosen in naive else DENSER
    assert report.codec_errors == pytest.approx({name: naive[name] for name in tried}, rel=2e-2)
    assert run.session.replay.store.capacity == run.session.plan.latent_capacity


HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "uint4": lambda latents: torch.zeros(len(latents), 2),
    "float32": lambda latents: torch.sin(1e7 * latents.flatten(1)),
}


@pytest.mark.parametrize("chosen", HEADS)
def test_the_choice_depends_on_the_heads_outputs(
    build_rig: Callable[..., Rig], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head ignores latents; the other depends on their last bits."""
    monkeypatch.setattr("seer_edge.training.freeze.PARITY_TOLERANCE", 10.0)  # ONNX Runtime's last bits are others
    run = build_rig(latent_codec=AUTO)
    run.steps(100)
    monkeypatch.setattr(run.session.agent, "outputs", HEADS[chosen])
    run.freeze()
    assert run.session.config.latent_codec == chosen


@pytest.mark.parametrize(("agent", "limit"), [("rainbow", math.inf), ("rainbow", 0.0), ("curl-sac", math.inf)])
def test_the_run_equals_one_that_was_given_the_chosen_codec(
    build_rig: Callable[..., Rig], bound: Bound, agent: str, limit: float
) -> None:
    bound(limit)
    run = build_rig(agent, latent_codec=AUTO)
    given = build_rig(agent, latent_codec="float32" if limit == 0 else "uint4")
    for each in (run, given):
        each.steps(100)
        each.freeze()
        each.steps(20)
    assert_same(snapshot(run), snapshot(given))
    assert run.session.config == given.session.config
    for line in Line:
        assert run.session.ledger.held_bytes(line) == given.session.ledger.held_bytes(line)
    assert run.session.ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes
    assert run.session.ledger.peak_bytes(Line.COLUMNS) <= run.plan.columns_bytes


def test_a_refused_freeze_leaves_the_codec_open(build_rig: Callable[..., Rig]) -> None:
    run = build_rig(latent_codec=AUTO)
    run.steps(100)
    before = snapshot(run)
    run.checkpoints.write_text("")
    with pytest.raises(FreezeRefusedError):
        run.freeze()
    assert_same(snapshot(run), before)
    assert run.session.config.latent_codec == AUTO
    run.checkpoints.unlink()
    run.freeze()
    assert checkpoint.newest(run.checkpoints).config.latent_codec == AUTO  # of step 2 of the freeze
    run.steps(1)
    run.save()
    assert checkpoint.newest(run.checkpoints).config == run.session.config
    assert run.session.config.latent_codec != AUTO


def test_a_failure_while_choosing_refuses_the_freeze(build_rig: Callable[..., Rig]) -> None:
    run = build_rig(latent_codec=AUTO)
    run.steps(100)
    before, outputs = snapshot(run), run.session.agent.outputs

    def fail(latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no outputs today")

    run.session.agent.outputs = fail
    with pytest.raises(FreezeRefusedError, match="no outputs today"):
        run.freeze()
    run.session.agent.outputs = outputs
    assert_same(snapshot(run), before)


def test_without_rows_to_measure_on_the_choice_is_float32(build_rig: Callable[..., Rig], bound: Bound) -> None:
    bound(math.inf)
    run = build_rig(latent_codec=AUTO)
    run.steps(1)
    report = run.freeze()
    assert run.session.config.latent_codec == "float32"
    assert report.codec_errors == {}


def test_a_single_row_to_measure_on_gives_no_error(build_rig: Callable[..., Rig], tmp_path: Path) -> None:
    """Its outputs have no standard deviation. JSON, and with it `summary.json`, has no infinite numbers."""
    run = build_rig(latent_codec=AUTO)
    while not 2 <= run.session.replay.store.rows <= 3:
        run.steps(1)
    report = run.freeze()
    assert run.session.config.latent_codec == "float32"
    durable.write_json(tmp_path / "report.json", report.to_json())


@pytest.mark.parametrize(("limit", "codec"), [(math.inf, "uint4"), (0.0, FRAMES)])
def test_partial_freezes_where_only_some_codecs_shrink_a_row(
    build_rig: Callable[..., Rig], bound: Bound, limit: float, codec: str
) -> None:
    """Where no codec is good enough the replay keeps frames, as it would with float32."""
    bound(limit)
    run = build_rig(latent_codec=AUTO, **BOTH_OVER_LATENTS_OR_FRAMES)
    assert [plan.latent_replay for plan in run.plan.choices] == [False, True, True, True]
    assert run.plan.latent_replay
    run.steps(100)
    report = run.freeze()
    run.steps(20)
    assert run.session.replay.store.codec.name == codec
    assert run.session.phase == ("pixel" if codec == FRAMES else "latent")
    assert report.codec_errors is not None
    assert set(report.codec_errors) <= set(DENSER)
    run.save()
    saved = checkpoint.newest(run.checkpoints)
    saved.check_fits(run.session.plan)
    session, _ = resume_session(run.session.plan, saved)
    assert session.replay.store.codec.name == codec


def test_a_frozen_checkpoint_without_a_chosen_codec_is_refused(build_rig: Callable[..., Rig]) -> None:
    run = build_rig(latent_codec=AUTO)
    run.steps(100)
    undecided = run.session.plan
    run.freeze()
    run.session.plan = dataclasses.replace(run.session.plan, config=undecided.config)
    run.save()
    saved = checkpoint.newest(run.checkpoints)
    with pytest.raises(BadInputError, match="not a checkpoint of this version"), checkpoint.reading(saved.path):
        resume_session(undecided, saved)


def test_errors_are_in_standard_deviations_of_each_output() -> None:
    exact = np.array([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0]], np.float32)
    got = np.array([[0.5, 1.0, 5.0], [2.0, 1.0, 5.5]], np.float32)
    expected: Any = [[0.5, 0, 0], [0, 0, math.inf]]
    np.testing.assert_array_equal(output_errors(got, exact), expected)
    assert 0 < OUTPUT_ERROR_BOUND < 1
