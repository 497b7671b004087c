"""Atari games, played directly on the emulator, which draws only the screens that frames need."""

from collections.abc import Mapping
from typing import Any

import ale_py
import gymnasium
import numpy as np

from seer_edge.envs.actions import Action, Discrete
from seer_edge.envs.atari_emulator import Emulator
from seer_edge.envs.atari_options import EVERY_ACTION, FRAMES_PER_STEP, checked_kwargs
from seer_edge.envs.environment import EnvSpec, Episode, Step
from seer_edge.envs.names import EnvId
from seer_edge.envs.resolution import pixel_size
from seer_edge.envs.state_reader import StateReader
from seer_runtime.policy.preprocess import Frame, Resize, pool_and_resize
from seer_runtime.system.state import State, generator_state, restore_generator

RESOLUTION = 84
GAME_FRAMES_MAX = 108_000
PROCESS_BYTES = 29_000_000
"""Memory of the emulator in this process, as measured by `tools/rssbench.py causes`."""


class Atari:
    """An Atari game with gray frames uint8 `[R, R]`, each the maximum of the last two screens.

    R is `resolution`, 84 by default, and `resize` is the interpolation (see `pool_and_resize`). One agent step is four
    emulator frames. `sticky` is the probability, at each emulator frame, of repeating the previous action; a game
    starts with no-op as the previous action.

    A game starts with 0 to `noops_max` frames of no-op. It is truncated after `game_frames_max` emulator frames, these
    included. Rewards of no-ops are not counted, as in the paper's code. With `life_loss_ends` a lost life terminates
    the episode, and `reset` continues the same game after one frame of no-op. That starts a new scene only with
    `blank_at_lost_life`.

    `kwargs` may hold the options in ATARI_KWARGS. The game has the actions that it uses, or all 18 with
    `full_action_space`.

    Raises UnsupportedEnvError where the registered game does not have discrete actions and for other `kwargs`, and
    ResolutionError unless R is 16 to 210.
    """

    def __init__(
        self,
        env_id: EnvId,
        *,
        seed: int,
        sticky: float,
        noops_max: int,
        life_loss_ends: bool,
        game_frames_max: int = GAME_FRAMES_MAX,
        resolution: int | None = None,
        resize: Resize = "area",
        blank_at_lost_life: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        asked = checked_kwargs(env_id.id, kwargs or {})
        every_action = asked.pop(EVERY_ACTION, False)
        self._size = pixel_size(RESOLUTION if resolution is None else resolution)
        # At lower levels each new emulator prints a banner.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._env: gymnasium.Env[Any, Any] = gymnasium.make(
            gymnasium.registry[env_id.registered],
            disable_env_checker=True,
            frameskip=1,
            # The emulator's own sticky action is not in its saved state, so a restored game would differ.
            repeat_action_probability=0.0,
            full_action_space=every_action,
            max_num_frames_per_episode=game_frames_max,
            obs_type="grayscale",
            **asked,
        )
        self._emulator = Emulator(self._env)
        ale = self._emulator.ale
        self._actions = ale.getLegalActionSet() if every_action else ale.getMinimalActionSet()
        actions = Discrete(len(self._actions))
        self.spec = EnvSpec(env_id.id, env_id.name, self._size, self._size, actions, PROCESS_BYTES, resize=resize)

        self._seed: int | None = seed
        # Separate streams, because the emulator uses the seed itself.
        noops, repeats = np.random.SeedSequence(seed).spawn(2)
        self._noops = np.random.default_rng(noops)
        self._repeats = np.random.default_rng(repeats)
        self._sticky = sticky
        self._held = ale_py.Action.NOOP
        self._noops_max = noops_max
        self._life_loss_ends = life_loss_ends
        self._blank_at_lost_life = blank_at_lost_life
        self.new_scene = True

        screen = ale.getScreenDims()
        self._older = np.zeros(screen, np.uint8)
        self._newer = np.zeros(screen, np.uint8)
        self._lives = 0
        self._stepping = False
        self._between_lives = False
        self._return = 0.0
        self._length_steps = 0

    def reset(self) -> Frame:
        """Start an episode and return its first frame: of a new game, or of the next life after a lost one.

        A game that ends in the no-op between two lives is replaced by a new one and never reports its `Episode`.
        """
        continues = self._between_lives and self._survives_noop()
        if not continues:
            self._new_game()
        self.new_scene = not continues or self._blank_at_lost_life
        self._lives = self._emulator.ale.lives()
        self._stepping, self._between_lives = True, False
        self._older.fill(0)
        self._emulator.ale.getScreenGrayscale(self._newer)
        return self._frame()

    def step(self, action: Action) -> Step:
        """Repeat `action` for four emulator frames, or fewer where the game ends.

        The frame of a terminated step is not meaningful. The frame of a truncated step shows the last screen. Raises
        RuntimeError before `reset`.
        """
        if not self._stepping:
            raise RuntimeError("reset the environment before its next step")
        ale, pressed = self._emulator.ale, self._actions[int(action)]
        reward = 0
        over = False
        for i in range(FRAMES_PER_STEP):
            if not self._sticky or self._repeats.random() >= self._sticky:
                self._held = pressed
            reward += self._emulator.press(self._held)
            over = ale.game_over()
            if over:
                break
            if i == FRAMES_PER_STEP - 2:
                ale.getScreenGrayscale(self._older)
            elif i == FRAMES_PER_STEP - 1:
                ale.getScreenGrayscale(self._newer)
        terminated = ale.game_over(with_truncation=False) or self._lost_life()
        truncated = over and not terminated
        if truncated:
            if i < FRAMES_PER_STEP - 1:
                self._older.fill(0)
            ale.getScreenGrayscale(self._newer)

        self._return += reward
        self._length_steps += 1
        self._stepping = not (terminated or truncated)
        self._between_lives = terminated and not over
        episode = Episode(self._return, self._length_steps) if over else None
        return Step(self._frame(), float(reward), terminated, truncated, episode)

    def close(self) -> None:
        """Close the emulator."""
        self._env.close()

    def state(self) -> State:
        """Return the emulator's state with its random stream (about 75 KB), the last two screens and the episode."""
        values = {
            "env": self.spec.id,
            "seed": self._seed,
            "noops": generator_state(self._noops),
            "repeats": generator_state(self._repeats),
            "held": self._held.name,
            "lives": self._lives,
            "stepping": self._stepping,
            "between_lives": self._between_lives,
            "return": self._return,
            "length_steps": self._length_steps,
        }
        return State(values, {**self._emulator.state(), "older": self._older, "newer": self._newer})

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises StateError for an invalid one."""
        saved = StateReader(state, self.spec.id)
        seed = saved.value("seed")
        seed = None if seed is None else saved.count("seed")
        held = {action.name: action for action in (ale_py.Action.NOOP, *self._actions)}.get(str(saved.value("held")))
        if held is None:
            raise saved.invalid("held is not an action of the game")
        lives, length_steps = saved.count("lives"), saved.count("length_steps")
        stepping, between_lives = saved.flag("stepping"), saved.flag("between_lives")
        episode_return = saved.number("return")
        older = saved.array("older", self._older.shape, np.uint8)
        newer = saved.array("newer", self._newer.shape, np.uint8)
        restore_generator(self._noops, saved.value("noops"))
        restore_generator(self._repeats, saved.value("repeats"))
        self._emulator.restore(saved)
        self._seed, self._held, self._lives = seed, held, lives
        self._stepping, self._between_lives = stepping, between_lives
        self._return, self._length_steps = episode_return, length_steps
        self._older[...], self._newer[...] = older, newer

    def _new_game(self) -> None:
        self._emulator.new_game(self._seed)
        self._seed = None
        for _ in range(self._noops.integers(self._noops_max + 1)):
            if not self._survives_noop():
                self._emulator.new_game()
        self._held = ale_py.Action.NOOP
        self._return = 0.0
        self._length_steps = 0

    def _survives_noop(self) -> bool:
        self._emulator.press(ale_py.Action.NOOP)
        return not self._emulator.ale.game_over()

    def _lost_life(self) -> bool:
        before, self._lives = self._lives, self._emulator.ale.lives()
        # Some games show zero lives for a while before they end. That is the end of the game, not a lost life.
        return self._life_loss_ends and 0 < self._lives < before

    def _frame(self) -> Frame:
        return pool_and_resize(self._older, self._newer, self._size, self.spec.resize, pooled=self._newer)
