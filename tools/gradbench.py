"""Measure Rainbow's update with gradients by hand against autograd, from latents of Alien's sizes (decision 12).

    python tools/gradbench.py [--updates 60] [--rounds 5]

Each version runs alone, and beside a thread that steps the emulator, as under `--pipeline on`. Rounds alternate, so
that all of them meet the same disturbances. The output has the median and the tenth percentile over all updates.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from commandline import FaultError, Parser, count, run_tool
from numpy.typing import NDArray

from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.agents.rainbow_reference import reference_update
from seer_edge.config.presets import RainbowSettings
from seer_edge.envs import EnvOptions, make_env
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
from seer_runtime.replay.replay import Batch

ACTIONS, SEED = 18, 0


class Latents:
    """Observations of a batch, in one slice."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def slices(self, at_most: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield all latents at once."""
        yield self.array


def make_agent() -> RainbowAgent:
    """Return a frozen agent with the sizes of Alien."""
    settings, encoder = RainbowSettings(), encoder_spec("data-efficient", input_shape=(4, 84, 84))
    head = RainbowHeadSpec(encoder.flat_size, settings.hidden, ACTIONS, settings.atoms)
    agent = RainbowAgent(encoder, head, settings, seed=SEED)
    agent.act_beside_updates()
    agent.freeze_encoder(reads_latents=True)
    return agent


def make_batch(rng: np.random.Generator) -> Batch:
    """Return a batch of random latents."""
    count = RainbowSettings().batch_size
    observations: list[Any] = [Latents(rng.random((count, 1, 576), np.float32)) for _ in range(2)]
    return Batch(
        observations=observations[0],
        actions=rng.integers(0, ACTIONS, count, np.int32),
        returns=rng.normal(0, 1, count).astype(np.float32),
        discounts=np.full(count, 0.8, np.float32),
        next_observations=observations[1],
        weights=np.ones(count, np.float32),
        row_ids=np.arange(count),
    )


def measure(update: Callable[[Batch], UpdateResult], agent: RainbowAgent, batch: Batch, updates: int) -> list[float]:
    """Return the seconds of each update."""
    seconds = []
    for _ in range(updates):
        agent.refresh()
        begin = time.perf_counter()
        update(batch)
        seconds.append(time.perf_counter() - begin)
    return seconds


def beside_the_emulator(work: Callable[[], list[float]]) -> list[float]:
    """Return what `work` does while another thread steps Alien."""
    env, stop = make_env("Alien", EnvOptions(), seed=SEED, training=True), threading.Event()
    rng = np.random.default_rng(SEED)

    def play() -> None:
        env.reset()
        while not stop.is_set():
            step = env.step(env.spec.actions.sample(rng))
            if step.terminated or step.truncated:
                env.reset()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        return work()
    finally:
        stop.set()
        thread.join()
        env.close()


def compare(updates: int, rounds: int) -> int:
    """Print the times in milliseconds. Raises FaultError where the versions have different losses."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    batch = make_batch(np.random.default_rng(SEED))
    by_hand, by_autograd = make_agent(), make_agent()
    versions: dict[str, tuple[Callable[[Batch], UpdateResult], RainbowAgent]] = {
        "by hand": (by_hand.update, by_hand),
        "autograd": (lambda batch: reference_update(by_autograd, batch), by_autograd),
    }
    results = [version(batch) for version, agent in versions.values() for _ in (agent.refresh(),)]
    if abs(results[0].loss - results[1].loss) > 1e-5 * abs(results[0].loss):
        raise FaultError(f"the losses differ: {results[0].loss} by hand, {results[1].loss} by autograd")
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, (update, agent) in versions.items():
            alone = measure(update, agent, batch, updates)
            beside = beside_the_emulator(lambda u=update, a=agent: measure(u, a, batch, updates))
            seconds.setdefault((name, "alone"), []).extend(alone)
            seconds.setdefault((name, "beside the emulator"), []).extend(beside)
    for (name, where), values in seconds.items():
        median, fast = (float(np.percentile(values, percent)) * 1e3 for percent in (50, 10))
        print(f"{name:<9} {where:<20} median {median:6.2f} ms, tenth percentile {fast:6.2f} ms")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="gradbench.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=count, default=60, metavar="N", help="updates in a round (60)")
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="rounds of each version (5)")

    def run() -> int:
        flags = parser.parse_args()
        return compare(flags.updates, flags.rounds)

    return run_tool("gradbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
