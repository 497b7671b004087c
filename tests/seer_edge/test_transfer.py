"""Importing the encoder of a run: its weights, which stay fixed, the latents in the replay, and refused sources."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.config.build import build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.envs import Continuous, Discrete, EnvSpec, make_env
from seer_edge.errors import BadInputError
from seer_edge.networks.encoder import Encoder
from seer_edge.runs import checkpoint
from seer_edge.runs.transfer import import_source
from seer_edge.training.components import Seeds
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.freeze import freeze
from seer_edge.training.imports import build_imported_session
from seer_edge.training.session import Session, build_session
from seer_runtime.replay.codecs import FRAMES
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Line

pytestmark = pytest.mark.integration

Arrays = dict[str, NDArray[Any]]

GAME = EnvSpec("tests.end_to_end.pixel_match:PixelMatch-v0", "PixelMatch", (42, 42), (42, 42), Discrete(3))
TASK = EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", (3, 25, 25), (21, 21), Continuous(1))

RAINBOW = RainbowSettings(batch_size=4, n_step=2, hidden=8, atoms=11, learning_starts=8, target_update_steps=3)
SAC = SacSettings(batch_size=4, hidden=8, features=6, learning_starts=8, random_steps=4, learning_rate=1e-2)


def _plan(env: EnvSpec, source: str | None = None, *, stack: int | None = None, **given: Any) -> BytePlan:
    config = build_config(
        env,
        source=source,
        mem_budget_bytes=1_000_000,
        total_timesteps=1_000,
        freeze_at=None if source else 500,
        resolution=env.frame_shape[-1],
        **given,
    )
    contrastive = config.algo == "curl-sac"
    sac = dataclasses.replace(SAC, contrastive=contrastive)
    settings: RainbowSettings | SacSettings = RAINBOW if config.algo == "rainbow" else sac
    if stack is not None:
        settings = dataclasses.replace(settings, stack=stack)
    # Twenty steps an episode.
    action_repeat = 50 if env.name == "cartpole-swingup" else None
    return make_plan(dataclasses.replace(config, settings=settings, action_repeat=action_repeat), env)


Sources = dict[str, tuple[str, Arrays]]


class Runs:
    """Opens sessions, closes them after the test, and has a folder for their checkpoints.

    Sources are trained once for all tests of this file, which only read them.
    """

    def __init__(self, folder: Path, sources: Sources, sources_folder: Path) -> None:
        self.folder = folder
        self.sources = sources
        self.sources_folder = sources_folder
        self.sessions: list[Session] = []

    def open(self, plan: BytePlan) -> Session:
        """Build a session of the plan, with its imported encoder if it imports one."""
        source = plan.config.source
        session = build_session(plan) if source is None else build_imported_session(plan, import_source(source, plan))
        self.sessions.append(session)
        return self.sessions[-1]

    def source(self, plan: BytePlan, steps: int = 14, *, frozen: bool = False) -> tuple[str, Arrays]:
        """Train a run briefly; return its folder, and the encoder and layer norms in its checkpoint."""
        key = repr((plan.config, steps, frozen))
        if key not in self.sources:
            self.sources[key] = self._train(plan, steps, frozen, self.sources_folder / f"source{len(self.sources)}")
        return self.sources[key]

    def _train(self, plan: BytePlan, steps: int, frozen: bool, folder: Path) -> tuple[str, Arrays]:
        session = self.open(plan)
        _steps(session, steps)
        if frozen:
            folder.mkdir()
            freeze(
                session, folder / "encoder.onnx", lambda: checkpoint.save(session.snapshot(), folder / "checkpoints")
            )
            _steps(session, 4)
        checkpoint.save(session.snapshot(), folder / "checkpoints")
        return str(folder), _encoder(session)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return {}


@pytest.fixture(scope="module")
def sources_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture
def runs(tmp_path: Path, sources: Sources, sources_folder: Path) -> Iterator[Runs]:
    opened = Runs(tmp_path, sources, sources_folder)
    yield opened
    for session in opened.sessions:
        session.env.close()


def _steps(session: Session, count: int) -> list[float]:
    losses = [session.step().loss for _ in range(count)]
    return [loss for loss in losses if loss is not None]


def _arrays(session: Session, *prefixes: str) -> Arrays:
    arrays = session.agent.state().arrays
    return {name: array.copy() for name, array in arrays.items() if name.startswith(prefixes)}


def _encoder(session: Session) -> Arrays:
    """Return what an import reads: the online encoder, and the layer norms behind its cut if there are any.

    A wholly imported encoder has its weights in the graph alone.
    """
    agent = _arrays(session, "encoder.", "critic.norm.", "actor.norm.")
    if session.graph is None:
        return agent
    tensors = onnx.load_from_string(session.graph).graph.initializer
    graph = {f"encoder.{tensor.name}": onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    held = {name: array for name, array in graph.items() if name.startswith(("encoder.convs.", "encoder.fcs."))}
    assert all(np.array_equal(array, agent[name]) for name, array in held.items() if name in agent)
    return held | agent


def _differing(got: Arrays, wanted: Arrays) -> set[str]:
    assert got.keys() == wanted.keys()
    return {name for name in wanted if not np.array_equal(got[name], wanted[name])}


# --- imported weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [GAME, TASK], ids=lambda env: env.name)
@pytest.mark.parametrize("frozen", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_imported_encoder_equals_the_source_and_stays_fixed(runs: Runs, env: EnvSpec, frozen: bool) -> None:
    source, theirs = runs.source(_plan(env, seed=1), frozen=frozen)
    assert len(theirs) == {"PixelMatch": 2 * 2, "cartpole-swingup": 2 * 4 + 2 * 2 + 2 * 2}[env.name]
    untaught = _encoder(runs.open(_plan(env)))
    assert all(name.endswith(".bias") or "norm" in name for name in theirs.keys() - _differing(theirs, untaught))

    session = runs.open(_plan(env, source))
    assert _differing(_encoder(session), theirs) == set()
    heads = _arrays(session, "head.", "actor.policy.", "critic.qs.")
    losses = _steps(session, 16)
    assert len(losses) == 7  # the last batch waits
    assert _differing(_encoder(session), theirs) == set()
    assert _differing(_arrays(session, "head.", "actor.policy.", "critic.qs."), heads) >= {
        name for name in heads if name.endswith("weight")
    }
    agent: Any = session.agent
    for encoder in (agent.encoder, agent.target_encoder):
        assert not encoder.state_dict()  # torch does not hold its weights


def test_only_the_encoder_is_read_and_an_untrained_source_gives_a_warning(runs: Runs) -> None:
    source, theirs = runs.source(_plan(TASK, seed=1))
    read = import_source(source, _plan(TASK, source))
    assert read.encoder.arrays.keys() == theirs.keys()
    assert read.warnings == ()
    early, _ = runs.source(_plan(TASK, seed=1), steps=8)
    (warning,) = import_source(early, _plan(TASK, early)).warnings
    assert warning == f"--from {early}: that run had made no update by step 8"


@pytest.mark.parametrize("env", [GAME, TASK], ids=lambda env: env.name)
def test_the_replay_holds_latents_from_the_first_row(runs: Runs, env: EnvSpec) -> None:
    source, _ = runs.source(_plan(env, seed=1))
    plan = _plan(env, source)
    session = runs.open(plan)
    store = session.replay.store
    assert (store.codec.name, store.capacity, store.stack) == ("float32", plan.latent_capacity, 1)
    assert plan.latent_capacity == 1_000_000 // plan.frame_row_bytes * plan.frame_row_bytes // plan.latent_row_bytes
    assert session.phase == "latent"
    assert session.ledger.peak_bytes(Line.COLUMNS) == plan.columns_bytes  # of latents alone
    _steps(session, 12)
    evaluate_session(plan, session, lambda: True, lambda count: None)
    assert store.capacity == plan.latent_capacity
    assert session.ledger.peak_bytes(Line.OBSERVATIONS) == plan.arena_bytes <= 1_000_000
    assert session.ledger.peak_bytes(Line.WORKSPACE) == plan.workspace_bytes


def test_rows_and_input_are_the_imported_encoders_latents_of_crops(runs: Runs) -> None:
    source, _ = runs.source(_plan(TASK, seed=1))
    plan = _plan(TASK, source)
    session = runs.open(plan)
    env = make_env(TASK.id, plan.config.env_options, seed=Seeds.of(plan.config.seed).env, training=True)
    try:
        stack = np.zeros((3, 3, 25, 25), np.uint8)
        stack[-1] = env.reset()
    finally:
        env.close()
    crop = Crop((25, 25), (21, 21))
    crops = np.empty((25, 9, 21, 21), np.uint8)
    for index, offset in enumerate(np.ndindex(5, 5)):
        crop.cut(stack, np.array(offset), crops[index].reshape(3, 3, 21, 21))
    encoder = Encoder(dataclasses.replace(plan.encoder, outside=False), torch.Generator())
    weights = {name.removeprefix("encoder."): torch.tensor(array) for name, array in _encoder(session).items()}
    encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(crops)).numpy()
    tolerance = 1e-5 * float(np.abs(wanted).max())
    np.testing.assert_allclose(session.observed.input, wanted[12], rtol=0, atol=tolerance)
    _steps(session, 1)
    latents = session.replay.store.storage.data[0].view(np.float32).reshape(4, 2, 6)
    for latent in latents:
        nearest, next_nearest = np.sort(np.abs(wanted - latent).max(axis=(1, 2)))[:2]  # one crop for both networks
        assert nearest < tolerance < next_nearest / 10


@pytest.mark.parametrize("layers", [None, 1], ids=["whole", "partly"])
@pytest.mark.parametrize("env", [GAME, pytest.param(TASK, marks=pytest.mark.slow)], ids=lambda env: env.name)
def test_an_imported_encoder_can_be_imported_again(runs: Runs, env: EnvSpec, layers: int | None) -> None:
    """The run in between holds its weights in its graph only."""
    source, theirs = runs.source(_plan(env, seed=1))
    between = runs.open(_plan(env, source, seed=2))
    _steps(between, 12)
    folder = runs.folder / "between"
    checkpoint.save(between.snapshot(), folder / "checkpoints")
    session = runs.open(_plan(env, str(folder), freeze_layers=layers))
    assert _differing(_encoder(session), theirs) == set()
    assert (session.graph is None) == (layers is not None)
    assert _steps(session, 12)


# --- fewer layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "layers", "frozen"),
    [
        pytest.param(TASK, 4, [f"encoder.convs.{index}." for index in range(4)], marks=pytest.mark.slow),
        (TASK, 1, ["encoder.convs.0."]),
        (GAME, 1, ["encoder.convs.0."]),
    ],
)
def test_with_fewer_frozen_layers_the_others_continue_to_train(
    runs: Runs, env: EnvSpec, layers: int, frozen: list[str]
) -> None:
    """The layers above the cut start from the source's weights. The replay holds frames."""
    source, theirs = runs.source(_plan(env, seed=1), frozen=True)
    plan = _plan(env, source, freeze_layers=layers)
    assert not plan.latent_replay
    session = runs.open(plan)
    assert (session.phase, session.graph, session.replay.store.codec.name) == ("pixel", None, FRAMES)
    assert session.replay.store.capacity == plan.frame_capacity
    assert _differing(_encoder(session), theirs) == set()
    _steps(session, 30)
    changed = _differing(_encoder(session), theirs)
    assert changed == {name for name in theirs if not name.startswith(tuple(frozen))}


# --- refused encoders --------------------------------------------------------------------------------------

SMALLER = dataclasses.replace(GAME, frame_shape=(40, 40), crop_shape=(40, 40))
LARGER = dataclasses.replace(TASK, frame_shape=(3, 50, 50), crop_shape=(42, 42))


@pytest.mark.parametrize(
    ("of", "env", "given", "message"),
    [
        (GAME, GAME, {"encoder": "canonical"}, "encoder is data-efficient there and canonical here"),
        (GAME, GAME, {"stack": 3}, "stack is 4 there and 3 here"),
        (GAME, SMALLER, {}, "frame is 42x42 there and 40x40 here"),
        (GAME, TASK, {}, "encoder is data-efficient there and sac-ae here"),
        (TASK, TASK, {"encoder": "impala"}, "encoder is sac-ae there and impala here"),
        (TASK, TASK, {"stack": 2}, "stack is 3 there and 2 here"),
        (TASK, LARGER, {}, "frame is 3x25x25 there and 3x50x50 here"),
        (TASK, GAME, {"encoder": "sac-ae"}, "networks is 2 there and 1 here"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_by_name(
    runs: Runs, of: EnvSpec, env: EnvSpec, given: dict[str, Any], message: str
) -> None:
    source, _ = runs.source(_plan(of, seed=1))
    with pytest.raises(BadInputError, match=f"--from {source}: its encoder does not fit: {message}; import from a run"):
        import_source(source, _plan(env, source, **given))


def test_settings_that_do_not_concern_the_encoder_may_differ(runs: Runs) -> None:
    """Another task, other actions, another loss, another codec."""
    source, theirs = runs.source(_plan(TASK, algo="sac"))
    walker = EnvSpec("dm_control/walker-walk-v0", "walker-walk", (3, 25, 25), (21, 21), Continuous(6))
    session = runs.open(_plan(walker, source, latent_codec="float16", augmentations=2, seed=9))
    assert _differing(_encoder(session), theirs) == set()
    assert session.replay.store.codec.name == "float16"


# --- no checkpoint, or none that is sound ------------------------------------------------------------------


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    plan = _plan(GAME, "x")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(
            BadInputError, match=f"--from {folder}: .*no checkpoint was published here.*; give the --run"
        ):
            import_source(str(folder), plan)


def test_a_damaged_checkpoint_is_skipped_for_an_older_one(runs: Runs) -> None:
    session = runs.open(_plan(GAME))
    checkpoints = runs.folder / "source/checkpoints"
    _steps(session, 12)
    checkpoint.save(session.snapshot(), checkpoints)
    older = _encoder(session)
    _steps(session, 2)
    newest = checkpoint.save(session.snapshot(), checkpoints) / "agent.safetensors"
    source = str(checkpoints.parent)
    assert import_source(source, _plan(GAME, source)).timestep == 14
    _flip_last_bit(newest)
    imported = import_source(source, _plan(GAME, source))
    assert imported.timestep == 12
    assert _differing({name: imported.encoder.arrays[name] for name in older}, older) == set()
    _flip_last_bit(checkpoints / "step_0000000012" / "agent.safetensors")
    with pytest.raises(BadInputError, match=f"--from {source}: .*no undamaged checkpoint .*agent.safetensors"):
        import_source(source, _plan(GAME, source))


def _flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
