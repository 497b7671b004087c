"""A small real session on an environment that keeps its own log, and what a freeze is held against."""

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
from seer_edge.config import TrainConfig
from seer_edge.envs import Environment, EnvSpec, Episode, Step
from seer_edge.freeze import freeze
from seer_edge.loop import Session, build_session
from seer_edge.networks.encoder import Encoder
from seer_edge.plan import BytePlan, make_plan
from seer_edge.presets import RainbowSettings
from seer_runtime.ledger import Line
from seer_runtime.store import FINAL, TERMINATED, TRUNCATED

Frame = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]

CAPACITY = 60
SMALL, LARGE = (42, 42), (60, 60)  # the canonical encoder's float32 latents are larger than a LARGE frame


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


def stack_of(episode: Log, step: int, depth: int = 4) -> Frame:
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


def assert_rows(rig: Rig, encoder: Encoder, *, tolerance: float = 1e-4) -> None:
    """Every row that the replay holds against the environment's own log."""
    rows, store, ids = rig.env.rows(), rig.session.replay.store, rig.held()
    assert store.appended == len(rows)
    stacks = np.stack([stack_of(*rows[row]) for row in ids])
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


def snapshot(run: Rig) -> Arrays:
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


def assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
