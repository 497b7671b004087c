"""Imports from a run or a bundle (`--from`, Section 5.4): encoder, learner and replay rows. Imports no torch.

`import_source` reads the encoder and checks everything against the plan of the new run. A learner and rows can be as
large as the agent and the replay, so only their place is kept here; `training.imports` loads them.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan, replan
from seer_edge.config.real_time import from_manifest, limits_asked
from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import AGENT, ENCODER
from seer_edge.envs import Discrete
from seer_edge.errors import BadInputError
from seer_edge.networks.graph import encoder_graph, graph_weights
from seer_edge.runs import checkpoint
from seer_edge.runs.source import WANTED, bundle_identity, is_bundle, member_values, open_source, store_of
from seer_runtime.onnx.check import GraphError, check_graph
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.policy import bundle
from seer_runtime.policy.bundle import Bundle
from seer_runtime.replay.block_format import BLOCK_ROWS
from seer_runtime.replay.block_index import newest_that_fit
from seer_runtime.replay.blocks import SIZES
from seer_runtime.replay.codecs import LATENT_CODECS
from seer_runtime.replay.storage import Layout

ENCODER_PREFIX = "encoder."


@dataclass(frozen=True)
class ImportedEncoder:
    """An encoder that fits the new run.

    `arrays` are arrays of an agent's state: the weights if some layers continue to train, and layer norms. `graph` is
    the ONNX graph of the frozen layers if the replay holds their latents, else None.
    """

    arrays: dict[str, NDArray[Any]]
    graph: bytes | None = None


@dataclass(frozen=True)
class ImportedLearner:
    """The heads and optimizers in a bundle."""

    bundle: Path
    updates: int


@dataclass(frozen=True)
class ImportedRows:
    """The replay rows in a bundle: how many fit, and the codec that stores them."""

    bundle: Path
    count: int
    codec: str


@dataclass(frozen=True)
class Imported:
    """What a new run imports from a run or a bundle."""

    timestep: int  # of the source
    encoder: ImportedEncoder
    learner: ImportedLearner | None = None
    rows: ImportedRows | None = None
    warnings: tuple[str, ...] = ()  # damaged newer checkpoints, and a source that has not learned
    notes: tuple[str, ...] = ()  # what is imported beside the encoder, and what is not

    def adapt(self, plan: BytePlan) -> BytePlan:
        """Return the plan of a run that imports this.

        Imported heads act from the first step, so there are no random steps. Imported rows count towards the steps
        before learning starts, and keep their codec.
        """
        if self.learner is None:
            return plan
        if self.rows is not None and self.rows.codec != plan.config.latent_codec:
            plan = _with_codec(plan, self.rows.codec)
        settings, rows = plan.config.settings.continued(), 0 if self.rows is None else self.rows.count
        settings = dataclasses.replace(settings, learning_starts=max(0, settings.learning_starts - rows))
        return replan(plan, settings=settings)


def import_source(source: str, plan: BytePlan, take: str | None = ENCODER, *, adopt_codec: bool = False) -> Imported:
    """Import from the run or bundle `source`.

    With `take` of `encoder` only the encoder is imported; with `agent` the learner too, and the rows that the bundle
    has. None imports the learner if the bundle has one that fits. With `adopt_codec` the run stores latents with the
    codec of the imported rows; without it, rows of another codec are not imported.

    Raises BadInputError if there is no encoder that fits `plan`, if `take` is `agent` and the learner does not fit, or
    if the codec has to be calibrated and no rows are imported to calibrate it on.
    """
    imported = _import(source, plan, take, adopt_codec=adopt_codec)
    codec = imported.adapt(plan).config.latent_codec
    if LATENT_CODECS[codec].calibrated and imported.rows is None:
        raise BadInputError(
            f"--latent-codec {codec}: needs rows to calibrate on, and {source} has no rows of that codec to import; "
            "leave it out to take the codec of its rows, if it has some, or choose one of "
            f"{', '.join(plan.config.latent_codecs)}"
        )
    return imported


def _import(source: str, plan: BytePlan, take: str | None, *, adopt_codec: bool) -> Imported:
    if is_bundle(source):
        with open_source(source) as opened:
            return _import_bundle(source, opened, plan, take, adopt_codec=adopt_codec)
    if take == AGENT:
        raise BadInputError(
            f"--take {take}: {source} is a run; continue it with resume, or import a bundle made by export --with "
            "learner"
        )
    return _import_run(source, plan)


def _import_run(source: str, plan: BytePlan) -> Imported:
    try:
        saved = checkpoint.newest(Path(source) / "checkpoints")
        with checkpoint.reading(saved.path):
            agent = saved.agent(ALGORITHMS[plan.config.algo].encoder_arrays)
    except BadInputError as error:
        raise BadInputError(f"--from {source}: {error}; give {WANTED}") from error
    _check_identity(source, saved.state.get("encoder"), plan)
    warnings = saved.skipped
    if not agent.values.get("updates"):
        warnings += (f"--from {source}: that run had made no update by step {saved.timestep}",)
    with checkpoint.reading(saved.path):
        encoder = _fit_encoder(plan, dict(agent.arrays), saved.graph)
    return Imported(saved.timestep, encoder, warnings=warnings)


def _import_bundle(source: str, opened: Bundle, plan: BytePlan, take: str | None, *, adopt_codec: bool) -> Imported:
    _check_identity(source, bundle_identity(opened), plan)
    timestep, encoder = int(opened.about["provenance"]["timestep"]), _bundle_encoder(opened, plan)
    mismatch = _head_mismatch(opened, plan)
    if take == ENCODER or (take is None and mismatch is not None):
        why = "--take encoder" if mismatch is None else mismatch
        return Imported(timestep, encoder, notes=(f"new head for {plan.env.actions} ({why})",))
    if mismatch is not None:
        raise BadInputError(f"--take {take}: {source}: {mismatch}; use --take encoder")
    path = Path(source).resolve()  # a link may point elsewhere later
    learner = ImportedLearner(path, int(member_values(opened, "learner")["updates"]))
    imported = Imported(timestep, encoder, learner, warnings=_control_warnings(source, opened, plan))
    notes: tuple[str, ...] = (f"training continues from the bundle's head, after {learner.updates:,} updates",)
    if not opened.holds(bundle.REPLAY):
        return dataclasses.replace(imported, notes=notes)
    store = store_of(opened)
    if store != plan.config.store:
        notes += (f"the bundle's replay rows are not imported: they need --store {store}",)
        return dataclasses.replace(imported, notes=notes)
    views = opened.container.tensors(bundle.NEWEST).shapes["latents"][0]
    if views and views != plan.config.augmentations:
        notes += (f"the bundle's replay rows are not imported: they need --augmentations {views}",)
        return dataclasses.replace(imported, notes=notes)
    codec, own = str(member_values(opened, "replay")["codec"]), plan.config.latent_codec
    if codec != own and not adopt_codec:
        notes += (f"the bundle's replay rows are not imported: their codec is {codec}, and --latent-codec is {own}",)
        return dataclasses.replace(imported, notes=notes)
    count = _rows_that_fit(opened, plan if codec == own else _with_codec(plan, codec))
    notes += (f"{count:,} replay rows are imported" + ("" if codec == own else f" with their codec, {codec}"),)
    return dataclasses.replace(imported, rows=ImportedRows(path, count, codec), notes=notes)


def _control_warnings(source: str, opened: Bundle, plan: BytePlan) -> tuple[str, ...]:
    """Return a warning if the bundle's agent acted in real time within limits that this run does not have."""
    had, has = from_manifest(opened.about), limits_asked(plan.config)
    if had is None or (has is not None and not has.lacks(had)):
        return ()
    return (f"--from {source}: its agent acted with {had.flags()}; give these flags too to keep its limits",)


def _rows_that_fit(opened: Bundle, plan: BytePlan) -> int:
    """Return how many of the bundle's replay rows fit into a run of `plan`."""
    tensors, layout = opened.container.tensors(bundle.REPLAY), Layout(**member_values(opened, "replay")["layout"])
    if not plan.config.compact:
        return min(tensors.shapes["rows"][0], plan.latent_capacity)
    sizes = np.empty(tensors.shapes[SIZES], np.uint32)
    tensors.read_into(SIZES, sizes)
    most = -(-plan.row_limit // BLOCK_ROWS)
    kept = newest_that_fit(sizes[-most:], plan.arena_bytes, plan.latent_row_bytes) * BLOCK_ROWS
    return min(layout.rows, kept + layout.appended % BLOCK_ROWS)


def _with_codec(plan: BytePlan, codec: str) -> BytePlan:
    return replan(plan, latent_codec=codec)


def _bundle_encoder(opened: Bundle, plan: BytePlan) -> ImportedEncoder:
    graph = opened.read(bundle.ENCODER)
    whole = dataclasses.replace(plan.encoder, outside=False, frozen_layers=None)
    found, wanted = check_graph(graph, max_batch=MAX_BATCH), (whole.input_shape, whole.latent_shape)
    if (found.observation_shape, found.latent_shape) != wanted:
        raise GraphError(
            f"its encoder maps {found.observation_shape} to {found.latent_shape}, expected {wanted[0]} to {wanted[1]}"
        )
    norms = opened.arrays(bundle.NORMS) if opened.holds(bundle.NORMS) else {}
    return _fit_encoder(plan, norms, graph)


def _fit_encoder(plan: BytePlan, arrays: dict[str, NDArray[Any]], graph: bytes | None) -> ImportedEncoder:
    """Return the encoder in the form that `plan` uses; its weights are in `arrays` or in the `graph` of a whole one."""
    has_weights = any(name.startswith(ENCODER_PREFIX) for name in arrays)
    if plan.encoder.outside and graph is not None and not has_weights:
        return ImportedEncoder(arrays, graph)
    weights = {name.removeprefix(ENCODER_PREFIX): array for name, array in arrays.items()}
    if graph is not None and not has_weights:
        weights = graph_weights(graph, plan.encoder.weight_shapes)
        arrays = arrays | {ENCODER_PREFIX + name: array for name, array in weights.items()}
    return ImportedEncoder(arrays, encoder_graph(plan.encoder, weights) if plan.latent_replay else None)


# --- what has to match -------------------------------------------------------------------------------------------


def _check_identity(source: str, identity: Any, plan: BytePlan) -> None:
    """Raise BadInputError, naming the difference, if the encoder was made for other inputs or is another encoder."""
    wanted = json.loads(json.dumps(checkpoint.encoder_identity(plan)))
    for field, value in wanted.items():
        found = identity.get(field) if isinstance(identity, dict) else None
        if found != value:
            raise BadInputError(
                f"--from {source}: its encoder does not fit: {field} is {_shown(found)} there and {_shown(value)} "
                f"here; import from a run with the same {field}"
            )


def _shown(value: Any) -> str:
    return "x".join(map(str, value))[:60] if isinstance(value, list) else " ".join(str(value).split())[:60]


def _head_mismatch(opened: Bundle, plan: BytePlan) -> str | None:
    """Return why training cannot continue from the bundle's head, or None if it can."""
    spec, actions, algo = opened.spec, plan.env.actions, plan.config.algo
    if not opened.holds(bundle.LEARNER):
        return "the bundle was exported without --with learner"
    if spec.algo != algo:
        return f"the bundle's agent is {spec.algo}, this run's is {algo}"
    if (spec.discrete, spec.actions) != (isinstance(actions, Discrete), actions.outputs):
        return f"the bundle's head has {spec.actions} actions"
    if not plan.encoder.outside:
        return "some layers of the encoder continue to train"
    shapes = opened.container.tensors(bundle.LEARNER).shapes
    for name, wanted in plan.networks.head_shapes.items():
        if shapes.get(name) != wanted:
            return f"the bundle's head has other sizes: {name} is {shapes.get(name)}, not {wanted}"
    return None
