"""A small real session of any agent on an environment that logs its episodes, to compare a freeze with."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import seer_edge.envs.guarded
import seer_edge.training.freeze
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.envs import Action, Continuous, Discrete, Environment, EnvSpec, Episode, Step
from seer_edge.errors import RunStoppedError
from seer_edge.networks.encoder import Encoder
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import freeze
from seer_edge.training.session import Session, build_session
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.replay.store import CONTINUED, FINAL, TERMINATED, TRUNCATED
from seer_runtime.system.ledger import Line
from seer_runtime.system.state import State

Frame = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]

CAPACITY = 60
SMALL = EnvSpec("Small-v0", "Noise", (42, 42), (42, 42), Discrete(3))
LARGE = EnvSpec("Large-v0", "Noise", (60, 60), (60, 60), Discrete(3))  # canonical's float32 latents are larger
COLOR = EnvSpec("Color-v0", "Noise", (3, 22, 22), (20, 20), Continuous(2))
SPECS = {spec.id: spec for spec in (SMALL, LARGE, COLOR)}

BRIEF = {"batch_size": 4, "n_step": 3, "hidden": 8}
KINDS: dict[str, dict[str, Any]] = {
    "rainbow": {
        "spec": SMALL,
        "settings": RainbowSettings(**BRIEF, atoms=11, target_update_steps=7),
        "encoder": "data-efficient",
    },
    "curl-sac": {
        "spec": COLOR,
        "settings": SacSettings(**BRIEF, features=5, random_steps=30),
        "encoder": "sac-ae",
        "augmentations": 3,
    },
}
"""Arguments of a rig, by agent."""


# --- the environment and its log ---------------------------------------------------------------------------


@dataclass
class Log:
    """One episode: its frames, the action and reward of each step, and the episode whose scene it continues."""

    frames: list[Frame] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    end: str = ""
    earlier: "Log | None" = None

    def scene(self, step: int) -> list[Frame]:
        """Return the frames of its scene up to `step`. Frames after lost lives, which no agent sees, are left out."""
        before = [] if self.earlier is None else self.earlier.scene(len(self.earlier.actions) - 1)
        return [*before, *self.frames[: step + 1]]


class Noise:
    """Episodes of 1 to 12 steps with random frames, terminated or truncated. Logs everything that it returns.

    With `lives` some episodes end by a lost life, after which the scene continues.
    """

    def __init__(self, spec: EnvSpec, seed: int, *, lives: bool = False) -> None:
        self.spec = spec
        self.ends = ["terminated", "truncated", *(["life", "life"] if lives else [])]
        self.log: list[Log] = []
        self._rng = np.random.default_rng(seed)
        self.left = 0
        self.new_scene = True

    def _frame(self) -> Frame:
        frame = self._rng.integers(0, 256, self.spec.frame_shape, np.uint8)
        self.log[-1].frames.append(frame)
        return frame.copy()

    def reset(self) -> Frame:
        self.new_scene = not self.log or self.log[-1].end != "life"
        self.log.append(Log(earlier=None if self.new_scene else self.log[-1]))
        self.left = int(self._rng.integers(1, 13))
        return self._frame()

    def step(self, action: Action) -> Step:
        episode = self.log[-1]
        assert not episode.end
        self.left -= 1
        reward = float(self._rng.normal(0, 2))
        if self.left == 0:
            episode.end = str(self._rng.choice(self.ends))
        episode.actions.append(np.copy(action))
        episode.rewards.append(reward)
        over = Episode(sum(episode.rewards), len(episode.rewards)) if episode.end not in ("", "life") else None
        return Step(self._frame(), reward, episode.end in ("terminated", "life"), episode.end == "truncated", over)

    def close(self) -> None: ...

    def state(self) -> State | None:
        return None

    def restore(self, state: State) -> None:
        raise NotImplementedError

    def rows(self) -> list[tuple[Log, int]]:
        """Return (episode, step) of every row that the replay must have received, in order."""
        rows = []
        for episode in self.log:
            final = episode.end == "truncated"
            rows += [(episode, step) for step in range(len(episode.actions) + final)]
        return rows


# --- a session ---------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """A session, its environment, and where it writes its encoder and checkpoints."""

    plan: BytePlan
    session: Session
    env: Noise
    path: Path
    checkpoints: Path

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.session.step()

    def until(self, last_step: str, at_least: int) -> None:
        """Step at least to step `at_least`, until a step ends its episode as `last_step` says; "" means no end."""
        while True:
            before = len(self.env.log)
            self.session.step()
            ended = self.env.log[-2].end if len(self.env.log) > before else ""
            if self.session.timestep >= at_least and ended == last_step:
                return

    def until_mid_episode(self, at_least: int) -> None:
        """Step until the episode has at least three steps behind it and five ahead."""
        self.until("", at_least)
        while len(self.env.log[-1].actions) < 3 or self.env.left < 5:
            self.until("", 0)

    def freeze(self) -> seer_edge.training.freeze.FreezeReport:
        return freeze(self.session, self.path, self.save)

    def save(self) -> Path:
        return checkpoint.save(self.session.snapshot(), self.checkpoints)

    def encoder(self) -> Encoder:
        """Return a torch encoder with the weights that a freeze would export now."""
        self.session.flush_updates()
        encoder = Encoder(self.plan.encoder, torch.Generator())
        encoder.load_state_dict(self.session.agent.encoder.state_dict())
        return encoder

    def latents(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the latents that the replay decodes from each row, `[B, K, N, L]`."""
        augmentations = self.plan.config.augmentations
        out = np.zeros((augmentations, len(ids), *self.plan.encoder.latent_shape), np.float32)
        for k, latents in enumerate(out):
            self.session.replay.store.gather(ids, np.full((len(ids), 1), k), latents)
        return out.swapaxes(0, 1)

    def held(self) -> NDArray[np.int64]:
        store = self.session.replay.store
        return np.arange(store.oldest, store.appended)

    # --- the frames of the environment ---------------------------------------------------------------------

    def stack_of(self, episode: Log, step: int) -> Frame:
        """Return the stack `[C, H, W]`, oldest frame first, zero before the scene's first frame."""
        depth, blank = self.plan.config.settings.stack, np.zeros_like(episode.frames[0])
        frames = [*[blank] * depth, *episode.scene(step)][-depth:]
        return np.stack(frames).reshape(-1, *self.env.spec.frame_shape[-2:])

    def offsets(self) -> list[tuple[int, int]]:
        """Return (y, x) of every possible view."""
        (height, width), (h, w) = self.env.spec.frame_shape[-2:], self.env.spec.crop_shape
        return list(itertools.product(range(height - h + 1), range(width - w + 1)))

    def center(self) -> int:
        """Return the index in `offsets` of the view that the agent acts on."""
        return len(self.offsets()) // 2

    def view_of(self, stack: Frame, offset: tuple[int, int]) -> Frame:
        """Return the view `[C, h, w]`."""
        (y, x), (h, w) = offset, self.env.spec.crop_shape
        return stack[:, y : y + h, x : x + w]

    def wanted(self, encoder: Encoder, rows: list[tuple[Log, int]]) -> NDArray[np.float32]:
        """Return latents `[B, O, N, L]` of each (episode, step) under each of the `offsets`."""
        offsets, latents = self.offsets(), []
        for row in rows:
            stack = self.stack_of(*row)
            views = np.stack([self.view_of(stack, offset) for offset in offsets])
            latents.append(encode(encoder, views))
        return np.stack(latents)

    def acted_on(self, encoder: Encoder, episode: Log, step: int) -> NDArray[np.float32]:
        """Return the latent `[N, L]` of the center view."""
        latents: NDArray[np.float32] = self.wanted(encoder, [(episode, step)])[0, self.center()]
        return latents


def encode(encoder: Encoder, observations: Frame) -> NDArray[np.float32]:
    """Return the output `[B, N, L]` of the layers up to the cut for `[B, C, h, w]`."""
    with torch.no_grad():
        inputs = torch.from_numpy(observations)
        latents = encoder(inputs) if encoder.spec.whole else encoder.frozen(inputs)[:, None]
    array: NDArray[np.float32] = latents.numpy()
    return array


@pytest.fixture
def build_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    """A function that builds rigs. The same arguments give the same run."""
    envs: list[Noise] = []
    count = itertools.count()
    with_lives = False

    def make_env(env: str, options: Any, *, seed: int, training: bool) -> Environment:
        envs.append(Noise(SPECS[env], seed, lives=with_lives and training))
        return envs[-1]

    monkeypatch.setattr(seer_edge.envs.guarded, "make_env", make_env)

    def build(
        agent: str = "rainbow",
        *,
        learning_starts: int = 90,
        pipeline: bool = False,
        lives: bool = False,
        **changes: Any,
    ) -> Rig:
        nonlocal with_lives
        with_lives = lives
        given = {**KINDS[agent], **changes}
        spec, settings = given.pop("spec"), given.pop("settings")
        config = TrainConfig(
            env=spec.id,
            env_name=spec.name,
            algo=agent,
            preset="default",
            mem_budget_bytes=CAPACITY * int(np.prod(spec.frame_shape)) + 33,
            total_timesteps=1_000,
            freeze_at=100,
            freeze_reason="test",
            settings=dataclasses.replace(settings, learning_starts=learning_starts),
            eval_episodes=3,
            pipeline=pipeline,
            **given,
        )
        plan = make_plan(config, spec)
        session = build_session(plan)
        folder = tmp_path / f"run{next(count)}"
        folder.mkdir()
        return Rig(plan, session, envs[-1], folder / "encoder.onnx", folder / "checkpoints")

    return build


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, build_rig: Callable[..., Rig]) -> Callable[..., Rig]:
    """`build_rig` for each agent in turn."""
    return functools.partial(build_rig, request.param)


# --- comparisons ------------------------------------------------------------------------------------------


def assert_rows(rig: Rig, encoder: Encoder, *, tolerance: float = 1e-4) -> NDArray[np.int64]:
    """Compare every row that the replay holds with the environment's log.

    Returns which of the `offsets` each of its latents is the view under, `[B, K]`.
    """
    rows, store, ids = rig.env.rows(), rig.session.replay.store, rig.held()
    assert store.appended == len(rows)
    wanted, got = rig.wanted(encoder, [rows[row] for row in ids]), rig.latents(ids)
    allowed = tolerance * max(1.0, float(np.abs(wanted).max()))
    differences = np.abs(got[:, :, None] - wanted[:, None]).max(axis=(3, 4))  # [B, K, O]
    views = differences.argmin(axis=2)
    assert differences.min(axis=2).max() <= allowed
    assert ((differences <= 10 * allowed).sum(axis=2) == 1).all()  # or views could not be distinguished
    assert (np.abs(np.diff(wanted, axis=0)).max(axis=(2, 3)) > 10 * allowed).all()  # nor rows
    for row, slot in zip(ids, store.slots(ids), strict=True):
        episode, step = rows[row]
        assert store.columns.age[slot] == len(episode.scene(step)) - 1
        if step == len(episode.actions):
            assert store.columns.flags[slot] == FINAL
            continue
        flags = {"": 0, "terminated": TERMINATED, "truncated": TRUNCATED, "life": TERMINATED | CONTINUED}
        assert store.columns.flags[slot] == flags[episode.end if step == len(episode.actions) - 1 else ""]
        np.testing.assert_array_equal(store.columns.action[slot], episode.actions[step])
        assert store.columns.reward[slot] == np.float32(clipped(rig, episode.rewards[step]))
    return views


def clipped(rig: Rig, rewards: Any) -> Any:
    """Return rewards as the replay stores them."""
    limit = rig.plan.config.settings.reward_clip
    return rewards if limit is None else np.clip(rewards, -limit, limit)


def snapshot(run: Rig) -> Arrays:
    """Copy everything that a refused freeze must not change."""
    session, store = run.session, run.session.replay.store
    arrays = {name: array.copy() for name, array in session.agent.state().arrays.items()}
    arrays |= {f"column.{name}": array.copy() for name, array in vars(store.columns).items()}
    arrays["arena"] = store.arena.bytes.copy()
    arrays["priorities"] = session.replay.sampler.priorities(run.held()).copy()
    arrays["observed.row"], arrays["observed.input"] = session.observed.row.copy(), session.observed.input.copy()
    arrays["stack"] = session.perception.stack.frames.copy()
    arrays["ledger"] = np.array([session.ledger.held_bytes(line) for line in Line])
    arrays["state"] = np.array(repr((session.replay.state().values, session.timestep, session.phase, session.graph)))
    arrays["exploration"] = np.array(repr(session.exploration.bit_generator.state))
    arrays["updates"] = np.array(session.agent.updates)
    return arrays


def assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def check_failed_conversion(run: Rig, monkeypatch: pytest.MonkeyPatch, chunk: int, before: Arrays) -> checkpoint.Saved:
    """Let the conversion at step 100 fail at its `chunk`-th call of the encoder.

    Check that the run stops and that its checkpoint holds the agent of the snapshot `before`. Return the checkpoint.
    """

    class Failing(OnnxEncoder):
        calls = 0

        def __call__(self, observations: Frame) -> NDArray[np.float32]:
            self.calls += run.session.agent.frozen
            if self.calls == chunk:
                raise MemoryError("out of memory")
            return super().__call__(observations)

    monkeypatch.setattr(seer_edge.training.freeze, "OnnxEncoder", Failing)
    with pytest.raises(RunStoppedError, match="the conversion at step 100 failed: out of memory"):
        run.freeze()
    saved = checkpoint.newest(run.checkpoints)
    assert (saved.timestep, saved.frozen, saved.graph) == (100, False, None)
    arrays = dict(saved.agent().arrays)
    assert_same(arrays, {name: before[name] for name in arrays})
    return saved
