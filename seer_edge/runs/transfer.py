"""Taking a run's encoder (Section 5.4) or a bundle's agent: what it was made for, and whether it fits. No torch."""

import contextlib
import dataclasses
import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.config.registry import ALGORITHMS
from seer_edge.envs import Discrete
from seer_edge.errors import BadInputError
from seer_edge.networks.graph import encoder_graph, graph_weights
from seer_edge.networks.spec import ENCODERS
from seer_edge.runs import checkpoint
from seer_edge.runs.run_folder import bundle_mend
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.onnx.check import GraphError, check_graph
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.policy import bundle
from seer_runtime.policy.bundle import Bundle, open_bundle
from seer_runtime.policy.preprocess import Resize
from seer_runtime.replay.codecs import CALIBRATED, LATENT_ELEMENT_BYTES
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.store import Layout
from seer_runtime.system.fields import Fields
from seer_runtime.system.state import State, StateError

if TYPE_CHECKING:
    from seer_edge.agents.agent import Agent  # which imports torch

ENCODER_PREFIX = "encoder."
AGENT, ENCODER = "agent", "encoder"
TAKES = (AGENT, ENCODER)


@dataclass(frozen=True)
class TakenEncoder:
    """The encoder of a run's newest sound generation or of a bundle; of a bundle perhaps its agent too."""

    timestep: int
    arrays: dict[str, NDArray[Any]]  # of an agent's state: the encoder where some of it trains on, layer norms
    warnings: tuple[str, ...]  # a line for each newer generation that is not sound, and for a run that has not learned
    graph: bytes | None = None  # of the frozen layers, where the replay holds their latents
    learner: Path | None = None  # the bundle whose head goes on
    rows: Path | None = None  # the bundle whose replay is taken
    row_count: int = 0  # of that
    codec: str | None = None  # of those rows, where the run has it from them
    notes: tuple[str, ...] = ()  # what goes on and what begins anew

    def begin(self, plan: BytePlan) -> BytePlan:
        """The plan of a run that takes this: a head that goes on acts by itself, and rows taken are not waited for."""
        if self.learner is None:
            return plan
        if self.codec is not None:
            plan = _with_codec(plan, self.codec)
        settings = plan.config.settings
        starts = max(0, settings.learning_starts - self.row_count)
        settings = dataclasses.replace(settings, random_steps=0, learning_starts=starts)
        return dataclasses.replace(plan, config=dataclasses.replace(plan.config, settings=settings))

    def give(self, agent: "Agent", *, reads_latents: bool) -> None:
        """Make it the encoder of `agent`, frozen, and the learner its own. Raises StateError, OSError."""
        agent.take_encoder(self.arrays)
        agent.freeze_encoder(reads_latents=reads_latents)
        if self.learner is not None:
            # Read here and kept by nobody: it is as large as the agent.
            with open_bundle(self.learner) as opened:
                arrays = opened.arrays(bundle.LEARNER, agent.state().arrays.keys())
                if not all(np.isfinite(array).all() for array in arrays.values()):
                    raise StateError("its learner holds numbers that are not finite")
                agent.restore(State(_values(opened, "learner"), arrays))

    def fill(self, replay: Replay) -> None:
        """Take the bundle's rows into `replay`; their last episode ends as truncated. Raises StateError, OSError."""
        if self.rows is None:
            return
        with open_bundle(self.rows) as opened:
            replay.restore(_values(opened, "replay"), opened.container.tensors(bundle.REPLAY))
            newest = opened.arrays(bundle.NEWEST)
        replay.interrupt(newest["latents"])


def is_bundle(source: str | Path) -> bool:
    """Whether what is there is to be read as a bundle; runs are folders."""
    mode = _mode(source)
    return mode is not None and not stat.S_ISDIR(mode)


def is_there(source: str) -> bool:
    """Whether there is anything at all."""
    return _mode(source) is not None


def _mode(source: str | Path) -> int | None:
    try:
        return Path(source).stat().st_mode
    except OSError:  # as of a name that is too long, too
        return None


def bundle_flags(source: str) -> dict[str, Any]:
    """What the bundle's encoder asks of a run: `encoder`, `color`, and `resolution` where its frames are square.

    Raises BadInputError.
    """
    with _opened(source) as opened:
        *channels, height, width = opened.spec.frame_shape
        return {
            "encoder": _identity(opened).get("encoder"),
            "color": "rgb" if channels else "gray",
            "resolution": width if height == width else None,
        }


def resize_of(source: str) -> Resize | None:
    """How screens became the frames that the encoder of a run or bundle was trained on.

    None where a run cannot be read: `take_encoder` says why. Raises BadInputError for a bundle that cannot be.
    """
    if is_bundle(source):
        with _opened(source) as opened:
            return opened.spec.resize
    with contextlib.suppress(BadInputError):
        return checkpoint.newest(Path(source) / "checkpoints").config.resize
    return None


def take_encoder(
    source: str, plan: BytePlan, take: str | None = ENCODER, *, codec_of_rows: bool = False
) -> TakenEncoder:
    """The encoder of the run or bundle `source`; of a bundle the agent, too, where `take` is `agent`.

    Where it is None, as much as the bundle has and the environment's actions fit. With `codec_of_rows` the codec of
    rows that are taken is theirs, else only rows of the plan's own are taken. Raises BadInputError where there is no
    encoder, or none that fits `plan`, or where its codec lacks the rows that it is calibrated on.
    """
    taken = _take(source, plan, take, codec_of_rows=codec_of_rows)
    codec = taken.begin(plan).config.latent_codec
    if codec in CALIBRATED and taken.rows is None:
        raise BadInputError(
            f"--latent-codec {codec}: is calibrated on rows, and of that codec none are taken from {source}; "
            f"choose one of {', '.join(plan.config.latent_codecs)}"
        )
    return taken


def _take(source: str, plan: BytePlan, take: str | None, *, codec_of_rows: bool) -> TakenEncoder:
    if is_bundle(source):
        with _opened(source) as opened:
            return _of_bundle(source, opened, plan, take, codec_of_rows=codec_of_rows)
    if take == AGENT:
        raise BadInputError(
            f"--take {take}: {source} is a run; go on with it by resume, or take a bundle of it (export --with learner)"
        )
    try:
        saved = checkpoint.newest(Path(source) / "checkpoints")
        with checkpoint.reading(saved.path):
            agent = saved.agent(ALGORITHMS[plan.config.algo].encoder_arrays)
    except BadInputError as error:
        raise BadInputError(f"--from {source}: {error}; give the --run-dir of a run, or a bundle") from error
    _check_identity(source, saved.state.get("encoder"), plan)
    warnings = saved.skipped
    if not agent.values.get("updates"):
        warnings += (f"warning: --from {source}: that run had made no update by step {saved.timestep}",)
    with checkpoint.reading(saved.path):
        return _taken(plan, saved.timestep, dict(agent.arrays), saved.graph, warnings)


def _taken(
    plan: BytePlan,
    timestep: int,
    arrays: dict[str, NDArray[Any]],
    graph: bytes | None,
    warnings: tuple[str, ...] = (),
) -> TakenEncoder:
    """The encoder in `arrays`, or in the `graph` of a whole one, for `plan`: a graph where its latents are stored."""
    has_weights = any(name.startswith(ENCODER_PREFIX) for name in arrays)
    if plan.encoder.outside and graph is not None and not has_weights:
        return TakenEncoder(timestep, arrays, warnings, graph)
    weights = {name.removeprefix(ENCODER_PREFIX): array for name, array in arrays.items()}
    if graph is not None and not has_weights:
        weights = graph_weights(graph, plan.encoder.weight_shapes)
        arrays = arrays | {ENCODER_PREFIX + name: array for name, array in weights.items()}
    own = encoder_graph(plan.encoder, weights) if plan.latent_replay else None
    return TakenEncoder(timestep, arrays, warnings, own)


def _check_identity(source: str, identity: Any, plan: BytePlan) -> None:
    wanted = json.loads(json.dumps(checkpoint.encoder_identity(plan)))
    for what, value in wanted.items():
        found = identity.get(what) if isinstance(identity, dict) else None
        if found != value:
            raise BadInputError(
                f"--from {source}: its encoder does not fit: {what} {_shown(found)} there, {_shown(value)} here; "
                f"take that of a run like this one"
            )


def _shown(value: Any) -> str:
    return "x".join(map(str, value))[:60] if isinstance(value, list) else " ".join(str(value).split())[:60]


# --- bundles -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(source: str) -> Iterator[Bundle]:
    """Raises BadInputError for what is no bundle, and for what its content does to the code inside."""
    with refusing(source), open_bundle(Path(source)) as opened:
        try:
            _check_manifest(opened)
        except ValueError as error:
            raise ValueError(f"its manifest is not one of this release ({one_line(error)})") from error
        yield opened


def _check_manifest(opened: Bundle) -> None:
    """Raise ValueError, which names the field, for what is read of the manifest here and is not what it must be."""
    fields = Fields(opened.about)
    fields.choice("algo", ALGORITHMS)
    fields.choice("encoder.encoder", ENCODERS)
    fields.count("provenance.timestep")
    if opened.holds(bundle.LEARNER):
        fields.count("learner.values.updates")
    if opened.holds(bundle.REPLAY):
        if fields.choice("replay.values.codec", LATENT_ELEMENT_BYTES) in CALIBRATED:
            for name in ("clipped", "encoded"):
                fields.count(f"replay.values.codec_counts.{name}")
        fields.number("replay.values.largest_priority", 0, sys.float_info.max)
        layout = [field.name for field in dataclasses.fields(Layout)]
        fields.record("replay.values.layout", layout)
        for name in layout:
            fields.count(f"replay.values.layout.{name}")
        fields.record("replay.values.rng.state")


@contextlib.contextmanager
def refusing(source: str) -> Iterator[None]:
    """Inside, what a stranger may have written to `source` is used. Raises BadInputError for whatever that does."""
    try:
        yield
    except (durable.CorruptFileError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = one_line(error)
        if isinstance(error, durable.CorruptFileError):
            reason = error.reason
        elif not isinstance(error, ValueError):  # Python's own words, which are no sentence
            reason = f"it is not of this release ({reason})"
        wanted = "the --run-dir of a run, or a bundle"
        mend = bundle_mend(Path(source), wanted) if is_bundle(source) else f"give {wanted}"
        raise BadInputError(f"--from {source}: {reason}; {mend}") from error
    except OSError as error:
        raise BadInputError(f"--from {source}: cannot be read ({error.strerror}); give another") from error


def _identity(opened: Bundle) -> dict[str, Any]:
    return dict(opened.about["encoder"])


def _of_bundle(source: str, opened: Bundle, plan: BytePlan, take: str | None, *, codec_of_rows: bool) -> TakenEncoder:
    """As `take_encoder`. The arrays are the bundle's own."""
    _check_identity(source, _identity(opened), plan)
    graph, timestep = opened.read(bundle.ENCODER), int(opened.about["provenance"]["timestep"])
    whole = dataclasses.replace(plan.encoder, outside=False, frozen_layers=None)
    found, wanted = check_graph(graph, max_batch=MAX_BATCH), (whole.input_shape, whole.latent_shape)
    if (found.observation_shape, found.latent_shape) != wanted:
        raise GraphError(f"its encoder turns {found.observation_shape} into {found.latent_shape}, not {wanted}")
    norms = opened.arrays(bundle.NORMS) if opened.holds(bundle.NORMS) else {}
    taken = _taken(plan, timestep, norms, graph)
    lack = _lack(opened, plan)
    if take == ENCODER or (take is None and lack is not None):
        why = "--take encoder" if lack is None else lack
        return dataclasses.replace(taken, notes=(f"a fresh head for {plan.env.actions} ({why})",))
    if lack is not None:
        raise BadInputError(f"--take {take}: {source}: {lack}; take the encoder alone")
    learner = Path(source).resolve()  # what a link names now
    goes_on = f"the head goes on from its {_values(opened, 'learner').get('updates'):,} updates"
    if not opened.holds(bundle.REPLAY):
        return dataclasses.replace(taken, learner=learner, notes=(goes_on,))
    codec, own = _values(opened, "replay").get("codec"), plan.config.latent_codec
    if codec != own and not codec_of_rows:
        left = f"the rows of its replay are left: they are {codec}, and --latent-codec is {own}"
        return dataclasses.replace(taken, learner=learner, notes=(goes_on, left))
    theirs = None if codec == own else str(codec)
    plan = plan if theirs is None else _with_codec(plan, theirs)
    count = min(opened.container.tensors(bundle.REPLAY).shapes["rows"][0], plan.latent_capacity)
    rows = f"{count:,} rows of its replay are taken" + ("" if theirs is None else f", and so is their codec, {theirs}")
    return dataclasses.replace(
        taken, learner=learner, rows=learner, row_count=count, codec=theirs, notes=(goes_on, rows)
    )


def _with_codec(plan: BytePlan, codec: str) -> BytePlan:
    return make_plan(dataclasses.replace(plan.config, latent_codec=codec), plan.env)


def _lack(opened: Bundle, plan: BytePlan) -> str | None:
    """Why the head cannot go on; None where it can."""
    spec, actions, algo = opened.spec, plan.env.actions, plan.config.algo
    count = actions.count if isinstance(actions, Discrete) else actions.size
    if not opened.holds(bundle.LEARNER):
        return "the bundle was exported without --with learner"
    if spec.algo != algo:
        return f"the bundle's is one of {spec.algo}, this run's of {algo}"
    if (spec.discrete, spec.actions) != (isinstance(actions, Discrete), count):
        return f"the bundle's head has {spec.actions} actions"
    if not plan.encoder.outside:
        return "layers of the encoder train on"
    shapes = opened.container.tensors(bundle.LEARNER).shapes
    for name, wanted in plan.networks.head_shapes.items():
        if shapes.get(name) != wanted:
            return f"the bundle's head has other sizes: {name} is {shapes.get(name)}, not {wanted}"
    return None


def _values(opened: Bundle, part: str) -> dict[str, Any]:
    return dict(opened.about[part]["values"])
