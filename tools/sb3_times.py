"""Time an alternative library in the same way as this project, where it is installed."""

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from yardsticks import Clock, Job, time_in_turns

STABLE_BASELINES3 = "stable_baselines3"
_ROWS = 500
_STEPS = 64


def stable_baselines3(env_id: str, batch_size: int, clock: Clock, times: int) -> Iterator[tuple[str, list[float]]]:
    """Time parts of Stable-Baselines3's DQN (NatureCNN, 84x84, its replay buffer) on an Atari game.

    Yield the name of each part and its times in milliseconds, ascending. A step includes one update, as in this
    project. Yield nothing where the library is missing or the environment is not an Atari game.
    """
    if not env_id.startswith("ALE/") or importlib.util.find_spec(STABLE_BASELINES3) is None:
        return
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    game = AtariPreprocessing(gymnasium.make(env_id, frameskip=1, repeat_action_probability=0.0))
    agent: Any = importlib.import_module(STABLE_BASELINES3).DQN(
        "CnnPolicy",
        FrameStackObservation(game, 4),
        buffer_size=_ROWS,
        learning_starts=batch_size,
        batch_size=batch_size,
        train_freq=1,
        gradient_steps=1,
        device="cpu",
        seed=0,
    )
    agent.learn(2 * batch_size)
    buffer: Any = agent.replay_buffer

    def update() -> None:
        agent.train(gradient_steps=1, batch_size=batch_size)

    def steps() -> None:
        agent.learn(_STEPS, reset_num_timesteps=False)

    parts: tuple[tuple[str, Job, int, int], ...] = (
        ("sample and gather", lambda: buffer.sample(batch_size), times, 1),
        ("update", update, times, 1),
        ("step", steps, max(1, times // _STEPS), _STEPS),
    )
    for name, job, count, calls in parts:
        yield name, [taken / calls for taken in time_in_turns(job, None, count, clock)[0]]
    game.close()
