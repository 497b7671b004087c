"""A freeze of the lowest layers only (Appendix D): over a replay that keeps frames, or of latents at the cut."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import seer_edge.training.evaluate
from seer_edge.agents import make_agent
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import FreezeRefusedError
from seer_runtime.replay.codecs import FRAMES
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from tests.seer_edge.freeze_rig import CAPACITY, Arrays, Frame, Rig, assert_rows, assert_same, encode, snapshot

pytestmark = pytest.mark.integration

OVER_FRAMES: list[dict[str, Any]] = [
    {"agent": "rainbow", "freeze_layers": 1},
    {"agent": "rainbow", "encoder": "canonical", "freeze_layers": 2},  # float32 of these are larger than a frame
    {"agent": "curl-sac", "freeze_layers": 2},
    {"agent": "curl-sac", "encoder": "impala", "freeze_layers": 15, "seed": 1},
]
OVER_LATENTS: list[dict[str, Any]] = [
    {"agent": "rainbow", "encoder": "canonical", "freeze_layers": 2, "latent_codec": "float16"},
    {
        **{"agent": "curl-sac", "encoder": "impala", "freeze_layers": 15, "seed": 1},
        **{"latent_codec": "float16", "augmentations": 1},
    },
]


def _often(*everyday: dict[str, Any], of: list[dict[str, Any]]) -> list[Any]:
    """Return all cases `of`; those that are not `everyday` are slow."""
    return [given if given in everyday else pytest.param(given, marks=pytest.mark.slow) for given in of]


EACH = [*OVER_FRAMES, *OVER_LATENTS]
RAINBOW_OVER_FRAMES, _, SAC_OVER_FRAMES, _ = OVER_FRAMES
RAINBOW_OVER_LATENTS, IMPALA_OVER_LATENTS = OVER_LATENTS


def _called(given: dict[str, Any]) -> str:
    return "-".join(map(str, given.values()))


def _frozen_at_100(build_rig: Callable[..., Rig], given: dict[str, Any]) -> Rig:
    run = build_rig(**given)
    run.steps(100)
    run.freeze()
    return run


def _weights(run: Rig) -> Arrays:
    """Return copies of all parameters, trained or frozen, and of their targets, tied ones too."""
    agent = run.session.agent
    state = {name: array.copy() for name, array in agent.state().arrays.items() if not name.startswith("optimizer.")}
    target = {f"target_encoder.{name}": tensor for name, tensor in agent.target_encoder.state_dict().items()}
    return {**state, **{name: tensor.numpy().copy() for name, tensor in target.items()}}


def _center(run: Rig) -> Frame:
    """Return the center crop of the next observation, from the environment's log."""
    episode = run.env.log[-1]
    return run.view_of(run.stack_of(episode, len(episode.actions)), run.offsets()[run.center()])


# --- trained layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    _often(RAINBOW_OVER_FRAMES, SAC_OVER_FRAMES, RAINBOW_OVER_LATENTS, IMPALA_OVER_LATENTS, of=EACH),
    ids=_called,
)
def test_only_the_lowest_layers_are_frozen(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run = _frozen_at_100(build_rig, given)
    spec, before = run.plan.encoder, _weights(run)
    updates = run.session.agent.updates
    run.steps(20)
    after = _weights(run)
    assert run.session.agent.updates == updates + 20
    assert after.keys() == before.keys()
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    frozen = set(spec.frozen_weight_shapes)
    assert 0 < len(frozen) < len(spec.weight_shapes)
    for name in spec.weight_shapes:
        assert (f"encoder.{name}" in changed) == (name not in frozen), name
    for name in (name.removeprefix("target_encoder.") for name in after if name.startswith("target_encoder.")):
        assert (f"target_encoder.{name}" in changed) == (name not in frozen), name
        if name in frozen:
            np.testing.assert_array_equal(after[f"target_encoder.{name}"], after[f"encoder.{name}"])
    heads = ("head.", "actor.", "critic.", "target_critic.", "bilinear.", "log_temperature")
    learned = {name for name in after if name.startswith(heads)}
    assert learned
    assert learned <= changed
    assert (
        given["agent"] == "rainbow" or "bilinear.weight" in learned
    )  # the trained rest of the encoder has CURL's loss


@pytest.mark.parametrize("given", _often(SAC_OVER_FRAMES, RAINBOW_OVER_LATENTS, of=EACH), ids=_called)
def test_an_evaluation_does_not_change_the_session(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run, twin = (_frozen_at_100(build_rig, given) for _ in range(2))
    evaluation = seer_edge.training.evaluate.evaluate_session(run.plan, run.session, lambda: False, lambda count: None)
    assert evaluation is not None
    assert len(evaluation.returns) == 3
    for each in (run, twin):
        each.steps(5)
    assert_same(snapshot(run), snapshot(twin))


@pytest.mark.parametrize("given", _often(RAINBOW_OVER_FRAMES, IMPALA_OVER_LATENTS, of=EACH), ids=_called)
def test_a_restored_agent_acts_as_the_saved_one(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run = _frozen_at_100(build_rig, given)
    run.steps(5)
    run.save()
    saved, agent = checkpoint.newest(run.checkpoints), run.session.agent
    assert (saved.timestep, saved.frozen) == (105, True)
    assert (saved.graph is not None) == agent.reads_latents == (given in OVER_LATENTS)
    loaded = make_agent(run.plan, seed=7)
    loaded.freeze_encoder(reads_latents=agent.reads_latents)
    observation = run.session.observed.input
    loaded.restore(saved.agent())
    np.testing.assert_array_equal(loaded.greedy(observation), agent.greedy(observation))
    np.testing.assert_array_equal(loaded.act(observation), agent.act(observation))


# --- over frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", _often(RAINBOW_OVER_FRAMES, SAC_OVER_FRAMES, of=OVER_FRAMES), ids=_called)
def test_the_replay_keeps_its_frames(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run = build_rig(**given)
    run.steps(100)
    before, session = snapshot(run), run.session
    observed, perception, store = session.observed, session.perception, session.replay.store
    report = run.freeze()
    assert (report.timestep, report.rows, report.onnx_max_abs_error) == (100, CAPACITY, None)
    assert (session.agent.frozen, session.agent.reads_latents) == (True, False)
    assert session.observed is observed
    assert session.perception is perception
    assert store.codec.name == FRAMES
    after = snapshot(run)
    kept = [name for name in after if name.startswith("column.")]
    kept += ["arena", "priorities", "observed.row", "observed.input", "stack", "ledger", "state", "exploration"]
    assert_same({name: after[name] for name in kept}, {name: before[name] for name in kept})
    assert not run.path.exists()

    saved = checkpoint.newest(run.checkpoints)
    assert (saved.timestep, saved.frozen, saved.graph) == (100, False, None)
    arrays = dict(saved.agent().arrays)
    assert_same(arrays, {name: before[name] for name in arrays})

    run.steps(CAPACITY)
    rows = [run.env.rows()[row] for row in run.held()]
    frames = store.storage.data[store.slots(run.held())].reshape(-1, *run.env.spec.frame_shape)
    np.testing.assert_array_equal(frames, np.stack([episode.frames[step] for episode, step in rows]))
    np.testing.assert_array_equal(session.observed.input, _center(run))
    assert session.ledger.peak_bytes(Line.OBSERVATIONS) == run.plan.arena_bytes
    assert session.ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes <= WORKSPACE_CAP_BYTES
    assert session.ledger.held_bytes(Line.COLUMNS) <= run.plan.columns_bytes


@pytest.mark.parametrize("given", _often(RAINBOW_OVER_FRAMES, SAC_OVER_FRAMES, of=OVER_FRAMES), ids=_called)
def test_a_refused_freeze_changes_nothing(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run, twin = build_rig(**given), build_rig(**given)
    for each in (run, twin):
        each.steps(100)
    before = snapshot(run)
    run.checkpoints.write_text("")
    with pytest.raises(FreezeRefusedError, match="no freeze at step 100: "):
        run.freeze()
    assert_same(snapshot(run), before)
    assert all(parameter.requires_grad for parameter in run.session.agent.encoder.parameters())
    for each in (run, twin):
        each.steps(5)
    assert_same(snapshot(run), snapshot(twin))


# --- over latents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", OVER_LATENTS, ids=_called)
def test_every_row_is_the_frozen_layers_output_on_its_stack(
    build_rig: Callable[..., Rig], given: dict[str, Any]
) -> None:
    run = build_rig(**given)
    run.steps(100)
    encoder = run.encoder()
    report, session = run.freeze(), run.session
    store = session.replay.store
    assert store.capacity == run.plan.latent_capacity > CAPACITY
    assert report.rows == len(run.held())
    scale = max(1.0, float(np.abs(run.latents(run.held())).max()))  # impala's blocks add up
    assert report.onnx_max_abs_error is not None
    assert report.onnx_max_abs_error < 1e-4 * scale
    assert run.path.read_bytes() == session.graph
    assert (session.agent.frozen, session.agent.reads_latents) == (True, True)
    assert_rows(run, encoder, tolerance=5e-4)
    run.steps(40)
    assert_rows(run, encoder, tolerance=5e-4)
    np.testing.assert_allclose(session.observed.input, encode(encoder, _center(run)[None])[0], atol=1e-4 * scale)
    assert session.ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes <= WORKSPACE_CAP_BYTES
    assert session.ledger.held_bytes(Line.COLUMNS) <= run.plan.columns_bytes
