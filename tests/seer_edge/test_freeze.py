"""The freeze of a real session: every kept row against the encoder on a log that the environment keeps itself.

Then every way in which it can fail: before the commit point nothing may have changed, after it the run stops.
"""

import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import seer_edge.evaluate
import seer_edge.freeze
import seer_edge.loop
from seer_edge import checkpoint
from seer_edge.config import TrainConfig
from seer_edge.envs import Environment, EnvSpec, Episode, Step
from seer_edge.errors import RunStoppedError
from seer_edge.freeze import FreezeRefusedError, freeze
from seer_edge.loop import Session, build_session
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.graph import encoder_graph
from seer_edge.plan import BytePlan, make_plan
from seer_edge.presets import RainbowSettings
from seer_runtime import durable
from seer_runtime.codecs import ElementCodec
from seer_runtime.durable import files
from seer_runtime.encoder import OnnxEncoder
from seer_runtime.ledger import WORKSPACE_CAP_BYTES, Line
from seer_runtime.samplers import PrioritizedSampler
from seer_runtime.store import FINAL, TERMINATED, TRUNCATED
from seer_runtime.windows import n_step_windows

Frame = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]

CAPACITY = 60
SMALL, LARGE = (42, 42), (60, 60)  # the canonical encoder's float32 latents are larger than a LARGE frame


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# --- the environment and its log ---------------------------------------------------------------------------


@dataclass
class Log:
    """One episode: its frames, and what was done and got at each of its steps."""

    frames: list[Frame] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    end: str = ""


class Noise:
    """Episodes of 1 to 12 steps of random frames that end either way; keeps a log of all it ever showed."""

    def __init__(self, frame_shape: tuple[int, int], seed: int) -> None:
        self.spec = EnvSpec("Noise-v0", "Noise", frame_shape, 3)
        self.log: list[Log] = []
        self._rng = np.random.default_rng(seed)
        self.left = 0

    def _frame(self) -> Frame:
        frame = self._rng.integers(0, 256, self.spec.frame_shape, np.uint8)
        self.log[-1].frames.append(frame)
        return frame.copy()

    def reset(self) -> Frame:
        self.log.append(Log())
        self.left = int(self._rng.integers(1, 13))
        return self._frame()

    def step(self, action: int) -> Step:
        episode = self.log[-1]
        assert not episode.end
        self.left -= 1
        reward = float(self._rng.normal(0, 2))
        if self.left == 0:
            episode.end = str(self._rng.choice(["terminated", "truncated"]))
        episode.actions.append(action)
        episode.rewards.append(reward)
        over = Episode(sum(episode.rewards), len(episode.rewards)) if episode.end else None
        return Step(self._frame(), reward, episode.end == "terminated", episode.end == "truncated", over)

    def close(self) -> None: ...

    def rows(self) -> list[tuple[Log, int]]:
        """(episode, step) of every row that a replay must have been given, in order."""
        rows = []
        for episode in self.log:
            final = episode.end == "truncated"
            rows += [(episode, step) for step in range(len(episode.actions) + final)]
        return rows


def _stack(episode: Log, step: int, depth: int = 4) -> Frame:
    """`[S, H, W]`, zero before the episode's first frame."""
    blank = np.zeros_like(episode.frames[0])
    return np.stack([episode.frames[k] if k >= 0 else blank for k in range(step - depth + 1, step + 1)])


# --- a session ---------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """A session, the environment under it and the folder it freezes into."""

    plan: BytePlan
    session: Session
    env: Noise
    path: Path
    checkpoints: Path

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.session.step()

    def until(self, last_step: str, at_least: int) -> None:
        """Step on to at least `at_least` steps, the last of which ended an episode as `last_step` says, or none."""
        while True:
            before = len(self.env.log)
            self.session.step()
            ended = self.env.log[-2].end if len(self.env.log) > before else ""
            if self.session.timestep >= at_least and ended == last_step:
                return

    def until_mid_episode(self, at_least: int) -> None:
        """Step on to where an episode has three steps behind it and five ahead."""
        self.until("", at_least)
        while len(self.env.log[-1].actions) < 3 or self.env.left < 5:
            self.until("", 0)

    def freeze(self) -> seer_edge.freeze.FreezeReport:
        return freeze(self.session, self.path, self.checkpoints)

    def encoder(self) -> Encoder:
        """A torch encoder of its own with the session's present weights."""
        encoder = Encoder(self.plan.encoder, torch.Generator())
        encoder.load_state_dict(self.session.agent.encoder.state_dict())
        return encoder

    def latents(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the replay decodes."""
        out = np.zeros((len(ids), 1, self.plan.encoder.latent_size), np.float32)
        self.session.replay.store.gather(ids, out)
        return out[:, 0]

    def held(self) -> NDArray[np.int64]:
        store = self.session.replay.store
        return np.arange(store.oldest, store.appended)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    """Builds rigs; the same arguments give the same run."""
    envs: list[Noise] = []
    count = itertools.count()

    def make_env(env: str, *, seed: int, **unused: Any) -> Environment:
        envs.append(Noise(LARGE if env == "Large-v0" else SMALL, seed))
        return envs[-1]

    monkeypatch.setattr(seer_edge.loop, "make_env", make_env)
    monkeypatch.setattr(seer_edge.evaluate, "make_env", make_env)

    def build(*, frame: tuple[int, int] = SMALL, learning_starts: int = 90, **given: Any) -> Rig:
        settings = RainbowSettings(
            batch_size=4, n_step=3, hidden=8, atoms=11, learning_starts=learning_starts, target_update_steps=7
        )
        config = TrainConfig(
            env="Large-v0" if frame == LARGE else "Small-v0",
            env_name="Noise",
            preset="default",
            mem_budget_bytes=CAPACITY * frame[0] * frame[1] + 33,
            total_timesteps=1_000,
            freeze_at=100,
            freeze_reason="test",
            rainbow=settings,
            eval_episodes=3,
            **given,
        )
        plan = make_plan(config, EnvSpec("Noise-v0", "Noise", frame, 3))
        session = build_session(plan)
        folder = tmp_path / f"run{next(count)}"
        folder.mkdir()
        return Rig(plan, session, envs[-1], folder / "encoder.onnx", folder / "checkpoints")

    return build


def _assert_rows(rig: Rig, encoder: Encoder, *, tolerance: float = 1e-4) -> None:
    """Every row that the replay holds against the environment's own log."""
    rows, store, ids = rig.env.rows(), rig.session.replay.store, rig.held()
    assert store.appended == len(rows)
    stacks = np.stack([_stack(*rows[row]) for row in ids])
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(stacks)).numpy()
    apart = np.abs(np.diff(wanted, axis=0)).max(axis=1)
    assert (apart > 10 * tolerance).all()  # or rows could not be told apart
    assert np.abs(rig.latents(ids) - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())
    for row, slot in zip(ids, store.slots(ids), strict=True):
        episode, step = rows[row]
        assert store.columns.age[slot] == step
        if step == len(episode.actions):
            assert store.columns.flags[slot] == FINAL
            continue
        ends = {"": 0, "terminated": int(TERMINATED), "truncated": int(TRUNCATED)}
        assert store.columns.flags[slot] == ends[episode.end if step == len(episode.actions) - 1 else ""]
        assert store.columns.action[slot] == episode.actions[step]
        assert store.columns.reward[slot] == np.float32(np.clip(episode.rewards[step], -1, 1))


# --- what the freeze makes of the rows ---------------------------------------------------------------------


@pytest.mark.parametrize("last_step", ["", "terminated", "truncated"])
@pytest.mark.parametrize("at_least", [1, 20, CAPACITY - 1, CAPACITY, CAPACITY + 1, 100, 137])
def test_every_row_is_the_encoder_on_its_own_stack(rig: Callable[..., Rig], last_step: str, at_least: int) -> None:
    run = rig()
    run.until(last_step, at_least)
    before, encoder = run.held(), run.encoder()
    run.freeze()
    whole = [row for row in before if row - min(run.env.rows()[row][1], 3) >= before[0]]
    assert run.held().tolist() == list(range(whole[0] if whole else before[-1] + 1, before[-1] + 1))
    assert len(before) - len(run.held()) <= 3
    _assert_rows(run, encoder)
    run.steps(40)
    _assert_rows(run, encoder)
    assert set(before) & set(run.held())


@pytest.mark.parametrize(
    ("given", "tolerance", "grows"),
    [
        ({"latent_codec": "float16"}, 5e-4, True),
        ({"frame": LARGE, "encoder": "canonical"}, 1e-4, False),
        ({"frame": LARGE, "encoder": "canonical", "latent_codec": "float16"}, 5e-4, True),
        ({"replay": "prioritized"}, 1e-4, True),
    ],
)
def test_codecs_encoders_and_samplers(
    rig: Callable[..., Rig], given: dict[str, Any], tolerance: float, grows: bool
) -> None:
    run = rig(**given)
    run.steps(100)
    encoder, before = run.encoder(), run.held()
    report = run.freeze()
    store = run.session.replay.store
    assert store.capacity == run.plan.latent_capacity
    assert (store.capacity > CAPACITY) == grows
    assert report.rows == len(run.held())
    if not grows:
        assert run.held().tolist() == before[-store.capacity :].tolist()
    _assert_rows(run, encoder, tolerance=tolerance)
    run.steps(2 * CAPACITY)
    assert store.rows > report.rows or not grows
    _assert_rows(run, encoder, tolerance=tolerance)


def test_the_latent_ring_wraps_too(rig: Callable[..., Rig]) -> None:
    run = rig(learning_starts=1_000)
    run.steps(130)
    encoder = run.encoder()
    run.freeze()
    run.steps(run.plan.latent_capacity)
    assert run.session.replay.store.rows == run.plan.latent_capacity < run.session.replay.store.appended
    _assert_rows(run, encoder)


def test_the_log_would_show_rows_that_are_one_off(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    encoder = run.encoder()
    run.freeze()
    _assert_rows(run, encoder)
    store = run.session.replay.store
    data = store.data[: store.rows].copy()
    store.data[: store.rows] = np.roll(data, 1, axis=0)
    with pytest.raises(AssertionError):
        _assert_rows(run, encoder)
    store.data[: store.rows] = data
    store.data[5] = data[6]
    with pytest.raises(AssertionError):
        _assert_rows(run, encoder)
    store.data[5] = data[5]
    store.columns.reward[: store.rows] = np.roll(store.columns.reward[: store.rows], -1)
    with pytest.raises(AssertionError):
        _assert_rows(run, encoder)


def test_priorities_stay_with_their_rows(rig: Callable[..., Rig]) -> None:
    run = rig(replay="prioritized")
    run.steps(130)
    replay = run.session.replay
    assert isinstance(replay.sampler, PrioritizedSampler)
    before = dict(zip(run.held().tolist(), replay.sampler.priorities(run.held()).tolist(), strict=True))
    run.freeze()
    after = replay.sampler.priorities(run.held()).tolist()
    assert after == [before[row] for row in run.held().tolist()]
    assert len(set(after)) > 10


def test_the_freeze_keeps_to_the_bytes(rig: Callable[..., Rig]) -> None:
    for given in ({}, {"frame": LARGE, "encoder": "canonical"}, {"replay": "prioritized"}):
        run = rig(**given)
        session, ledger = run.session, run.session.ledger
        run.steps(100)
        arena = session.replay.store.arena
        address = arena.bytes.ctypes.data
        run.freeze()
        run.steps(10)
        assert session.replay.store.arena is arena
        assert arena.bytes.ctypes.data == address
        assert np.shares_memory(session.replay.store.data, arena.bytes)
        assert ledger.peak_bytes(Line.OBSERVATIONS) == run.plan.arena_bytes <= run.plan.config.mem_budget_bytes
        assert ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes <= WORKSPACE_CAP_BYTES
        assert ledger.held_bytes(Line.COLUMNS) <= run.plan.columns_bytes
        assert ledger.held_bytes(Line.PRIORITIES) <= run.plan.priorities_bytes


# --- the run goes on ---------------------------------------------------------------------------------------


def test_the_running_episode_goes_on_from_latents(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.until_mid_episode(100)
    session, store = run.session, run.session.replay.store
    encoder, episode = run.encoder(), run.env.log[-1]
    newest, step = store.appended - 1, len(episode.actions)
    before = n_step_windows(store, np.array([newest]), 3, 0.9)
    assert not before.valid[0]
    run.freeze()
    assert session.phase == "latent"
    with torch.no_grad():
        seen = encoder(torch.from_numpy(_stack(episode, step)[None])).numpy()[0]
    np.testing.assert_allclose(session.observed.input, seen, atol=1e-4)
    run.steps(4)
    assert run.env.log[-1] is episode
    ids = np.arange(newest - 1, newest + 3)
    assert store.columns.age[store.slots(ids)].tolist() == [step - 2, step - 1, step, step + 1]
    np.testing.assert_allclose(run.latents(np.array([newest + 1]))[0], seen, atol=1e-4)
    windows = n_step_windows(store, np.array([newest]), 3, 0.9)
    rewards = np.clip(episode.rewards[step - 1 : step + 2], -1, 1)
    assert windows.valid[0]
    assert windows.bootstrap_ids[0] == newest + 3
    assert windows.returns[0] == pytest.approx(rewards @ [1, 0.9, 0.81], rel=1e-5)


def test_batches_after_the_freeze_are_latents_of_the_log(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.until_mid_episode(120)
    encoder, frozen_at = run.encoder(), run.session.replay.store.appended
    run.freeze()
    run.steps(20)
    rows, crossing = run.env.rows(), 0
    for _ in range(30):
        batch = run.session.replay.sample()
        windows = n_step_windows(run.session.replay.store, batch.row_ids, 3, 0.99)
        for index, row in enumerate(batch.row_ids.tolist()):
            bootstrap = int(windows.bootstrap_ids[index])
            assert rows[row][0] is rows[bootstrap][0]
            crossing += row < frozen_at <= bootstrap
            stacks = np.stack([_stack(*rows[row]), _stack(*rows[bootstrap])])
            with torch.no_grad():
                wanted = encoder(torch.from_numpy(stacks)).numpy()
            np.testing.assert_allclose(batch.observations[index], wanted[0], atol=1e-4)
            np.testing.assert_allclose(batch.next_observations[index], wanted[1], atol=1e-4)
    assert crossing > 0


def test_the_encoder_stays_and_the_head_learns(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(110)
    first = {name: array.copy() for name, array in run.session.agent.state_arrays().items()}
    updates = run.session.agent.updates
    run.freeze()
    run.steps(20)
    after = run.session.agent.state_arrays()
    assert run.session.agent.updates == updates + 20
    for name in first:
        if name.startswith("encoder."):
            np.testing.assert_array_equal(after[name], first[name])
            np.testing.assert_array_equal(after["target_" + name], first[name])
        elif name.startswith("head."):
            assert not np.array_equal(after[name], first[name]), name


@pytest.mark.parametrize("frozen", [False, True])
def test_an_evaluation_leaves_the_session_as_it_was(rig: Callable[..., Rig], frozen: bool) -> None:
    """A twin that never evaluated goes on the same, to the bit: the two share encoder, agent and ledger."""
    run, twin = rig(), rig()
    for each in (run, twin):
        each.until("", 100)
        if frozen:
            each.freeze()
            each.until("", 105)
    held = run.session.ledger.held_bytes(Line.WORKSPACE)
    played: list[int] = []
    evaluation = seer_edge.evaluate.evaluate_session(run.plan, run.session, lambda: False, played.append)
    assert evaluation is not None
    assert len(evaluation.returns) == 3
    assert played == [1, 2, 3]
    assert run.session.ledger.held_bytes(Line.WORKSPACE) == held
    np.testing.assert_array_equal(run.session.observed.input, twin.session.observed.input)
    np.testing.assert_array_equal(run.session.observed.row, twin.session.observed.row)
    for each in (run, twin):
        each.steps(10)
    _assert_same(_snapshot(run), _snapshot(twin))


# --- what it leaves behind ---------------------------------------------------------------------------------


def test_the_graph_is_written_and_is_the_one_in_use(rig: Callable[..., Rig]) -> None:
    runs = [rig(), rig()]
    for run in runs:
        run.steps(100)
        run.freeze()
        assert run.path.read_bytes() == run.session.graph
    assert runs[0].path.read_bytes() == runs[1].path.read_bytes()
    run = runs[0]
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["checkpoints", "encoder.onnx"]
    encoder = OnnxEncoder(run.path.read_bytes(), threads=1, ledger=run.session.ledger)
    row = run.held()[-1:]
    stack = _stack(*run.env.rows()[int(row[0])])
    np.testing.assert_allclose(encoder(stack[None]), run.latents(row), atol=1e-6)


def test_the_generation_before_the_commit_is_of_the_pixel_phase(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    before, store = _snapshot(run), run.session.replay.store
    frames = store.data[: store.rows].copy()
    run.freeze()
    saved = checkpoint.read_agent(run.checkpoints)
    assert (saved.timestep, saved.graph) == (100, None)
    _assert_same(saved.arrays, {name: array for name, array in before.items() if name in saved.arrays})
    assert any(name.startswith("optimizer.first.encoder.") for name in saved.arrays)
    generation = durable.newest_generation(run.checkpoints)
    np.testing.assert_array_equal(durable.read_tensors(generation.path / checkpoint.REPLAY)["rows"], frames)


def test_the_report_is_the_summarys_entry(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    report = run.freeze()
    assert (report.timestep, report.rows) == (100, run.session.replay.store.rows)
    assert 0 <= report.onnx_max_abs_error < 1e-4
    assert report.seconds > 0
    assert 0 < report.rss_before_bytes <= report.rss_peak_bytes
    assert 0 < report.rss_after_bytes <= report.rss_peak_bytes
    assert set(report.to_json()) == {
        *("timestep", "rows", "seconds", "rss_before_bytes", "rss_peak_bytes", "rss_after_bytes"),
        "onnx_max_abs_error",
    }


# --- failures before the commit point ----------------------------------------------------------------------


def _snapshot(run: Rig) -> Arrays:
    """Copies of everything that a refused freeze must leave as it was."""
    session, store = run.session, run.session.replay.store
    arrays = {name: array.copy() for name, array in session.agent.state_arrays().items()}
    arrays |= {f"column.{name}": array.copy() for name, array in vars(store.columns).items()}
    arrays["arena"] = store.arena.bytes.copy()
    arrays["priorities"] = session.replay.sampler.priorities(run.held()).copy()
    arrays["observed.row"], arrays["observed.input"] = session.observed.row.copy(), session.observed.input.copy()
    arrays["stack"] = session.perception.stack.frames.copy()
    arrays["ledger"] = np.array([session.ledger.held_bytes(line) for line in Line])
    arrays["state"] = np.array(repr((session.replay.state(), session.timestep, session.phase, session.graph)))
    arrays["updates"] = np.array(session.agent.updates)
    return arrays


def _assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def _perturbed(change: Callable[[Arrays], Arrays]) -> Callable[..., bytes]:
    def build(spec: Any, weights: Any) -> bytes:
        kernel, bias = weights[-1]
        changed = change({"kernel": kernel.copy(), "bias": bias.copy()})
        return encoder_graph(spec, [*weights[:-1], (changed["kernel"], changed["bias"])])

    return build


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*unused: object) -> Any:
        raise error

    return fail


def _path_under_a_file(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.path.parent.joinpath("file").write_text("")
    run.path = run.path.parent / "file" / "encoder.onnx"


def _folder_in_the_way(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.path.mkdir()


def _graph_is_garbage(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seer_edge.freeze, "encoder_graph", lambda *unused: b"not a graph")


def _no_workspace_left(run: Rig, patch: pytest.MonkeyPatch) -> None:
    ledger = run.session.ledger
    ledger.allocate(Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - 64, np.uint8)


def _latents_differ(run: Rig, patch: pytest.MonkeyPatch) -> None:
    wrong = _perturbed(lambda layer: {**layer, "kernel": layer["kernel"] * np.float32(1.01)})
    patch.setattr(seer_edge.freeze, "encoder_graph", wrong)


def _values_differ(run: Rig, patch: pytest.MonkeyPatch) -> None:
    """Latents within the tolerance, before a head steep enough to make much of the difference."""
    wrong = _perturbed(lambda layer: {**layer, "bias": layer["bias"] + np.float32(9e-5)})
    patch.setattr(seer_edge.freeze, "encoder_graph", wrong)
    with torch.no_grad():
        run.session.agent.head.hidden.weight.mul_(1_000)


def _weights_are_nan(run: Rig, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        run.session.agent.encoder.convs[0].weight[0, 0, 0, 0] = float("nan")


def _calibration_fails(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ElementCodec, "calibrate", _raising(MemoryError("no memory for scales")))


def _checkpoints_is_a_file(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.checkpoints.write_text("")


def _disk_is_full_at_the_checkpoint(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(durable, "write_tensors", _raising(OSError(errno.ENOSPC, "No space left on device")))


FAULTS = {
    _path_under_a_file: "",
    _folder_in_the_way: "",
    _graph_is_garbage: "",
    _no_workspace_left: "workspace: .* would exceed the cap",
    _latents_differ: "latents of ONNX Runtime and torch differ by",
    _values_differ: "Q-values of ONNX Runtime and torch differ by",
    _weights_are_nan: "latents of ONNX Runtime and torch differ by nan",
    _calibration_fails: "no memory for scales",
    _checkpoints_is_a_file: "",
    _disk_is_full_at_the_checkpoint: "No space left on device",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_refused_freeze_changes_nothing(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, fault: Callable[[Rig, pytest.MonkeyPatch], None]
) -> None:
    run = rig(replay="prioritized")
    run.until("", 100)
    fault(run, monkeypatch)
    before, observed, perception = _snapshot(run), run.session.observed, run.session.perception
    with pytest.raises(FreezeRefusedError, match=f"(?s)no freeze at step {run.session.timestep}: .*{FAULTS[fault]}"):
        run.freeze()
    assert not run.path.is_file()
    assert not run.checkpoints.is_dir() or not any(run.checkpoints.iterdir())
    assert run.session.observed is observed
    assert run.session.perception is perception
    _assert_same(_snapshot(run), before)
    agent = run.session.agent
    assert agent.target_encoder is not agent.encoder
    assert all(parameter.requires_grad for parameter in agent.encoder.parameters())


def test_latents_that_a_codec_cannot_hold_are_a_refusal(rig: Callable[..., Rig]) -> None:
    run = rig(latent_codec="float16", learning_starts=1_000)
    with torch.no_grad():
        for parameter in run.session.agent.encoder.convs[-1].parameters():
            parameter.mul_(1e7)
    run.steps(100)
    before = _snapshot(run)
    with pytest.raises(FreezeRefusedError, match="codec float16 stores values up to 65504"):
        run.freeze()
    assert not run.path.exists()
    _assert_same(_snapshot(run), before)


def test_a_run_goes_on_after_a_refusal_as_if_it_had_not_tried(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, twin = rig(), rig()
    for each in (run, twin):
        each.steps(100)
    with monkeypatch.context() as patch:
        _latents_differ(run, patch)
        with pytest.raises(FreezeRefusedError):
            run.freeze()
    for each in (run, twin):
        each.steps(20)
    _assert_same(_snapshot(run), _snapshot(twin))
    for each in (run, twin):
        each.freeze()
        each.steps(20)
    _assert_same(_snapshot(run), _snapshot(twin))


@pytest.mark.parametrize("call", ["_create", "_write", "_fsync", "_fsync_folder", "_rename", "_make_folder"])
def test_a_refusal_at_every_touch_of_the_disk(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The first, the second, … call fails; every attempt but the last is refused and leaves all as it was."""
    run = rig()
    run.steps(100)
    before, real, refusals = _snapshot(run), getattr(files, call), 0

    def fails_at(number: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def touch(*arguments: Any) -> Any:
            if next(calls) == number:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments)

        return touch

    for number in itertools.count(1):
        with monkeypatch.context() as patch:
            patch.setattr(files, call, fails_at(number))
            try:
                run.freeze()
                break
            except FreezeRefusedError:
                refusals += 1
        assert not run.path.exists()
        _assert_same(_snapshot(run), before)
    assert refusals == number - 1 >= 2
    assert run.session.phase == "latent"
    _assert_rows(run, run.encoder())


@pytest.mark.parametrize("room_bytes", [0, 5_000])
def test_no_workspace_for_the_conversion_is_never_a_half_frozen_run(rig: Callable[..., Rig], room_bytes: int) -> None:
    run = rig()
    run.steps(100)
    ledger = run.session.ledger
    taken = 64 * run.plan.encoder.latent_size * 4 + room_bytes  # the encoder's latents fit, the chunks do not
    ledger.allocate(Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - taken, np.uint8)
    held = {line: ledger.held_bytes(line) for line in Line}
    with pytest.raises(FreezeRefusedError, match=r"workspace: .* would exceed the cap"):
        run.freeze()
    assert {line: ledger.held_bytes(line) for line in Line} == held
    assert not run.session.agent.frozen
    run.steps(50)


# --- failures after it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_failed_conversion_stops_the_run_and_leaves_a_generation(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    run = rig()
    run.steps(100)
    before = _snapshot(run)

    class Failing(OnnxEncoder):
        calls = 0

        def __call__(self, observations: Frame) -> NDArray[np.float32]:
            self.calls += run.session.agent.frozen
            if self.calls == chunk:
                raise MemoryError("out of memory")
            return super().__call__(observations)

    monkeypatch.setattr(seer_edge.freeze, "OnnxEncoder", Failing)
    with pytest.raises(RunStoppedError, match="the conversion at step 100 failed: out of memory"):
        run.freeze()
    saved = checkpoint.read_agent(run.checkpoints)
    assert (saved.timestep, saved.graph) == (100, None)
    _assert_same(saved.arrays, {name: before[name] for name in saved.arrays})
