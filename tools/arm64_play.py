"""Compare one policy on two machines: each plays the same steps of a game and records its frames and actions.

It needs neither torch nor test packages, so that a board can run it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NEAR_TIE = 1e-4
"""Either of the two best actions may be chosen where their values differ by at most this fraction of the largest."""
NEAR_FRAME = 1
"""Allowed difference in gray levels, because OpenCV's resize rounds differently on different processors."""


def play(bundle: Path, steps: int, follow: NDArray[np.int64] | None) -> dict[str, NDArray[np.generic]]:
    """Play Alien with the policy of `bundle`; return `frames` [T, 84, 84], its `actions` [T] and `values` [T, M].

    With `follow` [T] take those actions instead of the policy's.
    """
    from seer_edge.envs import EnvOptions, make_env
    from seer_runtime.policy.policy import Policy

    policy, env = Policy.load(bundle), make_env("Alien", EnvOptions(), seed=0, training=False)
    frames, actions, values = [], [], []
    frame = env.reset()
    for i in range(steps):
        action = policy.act(frame)
        frames.append(frame)
        actions.append(action)
        values.append(policy.values.copy())
        step = env.step(action if follow is None else int(follow[i]))
        frame = step.frame
        if step.terminated or step.truncated:
            policy.reset()
            frame = env.reset()
    return {"frames": np.array(frames), "actions": np.array(actions), "values": np.array(values)}


def compare(here: Path, there: Path) -> tuple[str, bool]:
    """Return a line that compares two recordings, and whether they agree except for near-ties."""
    one, other = np.load(here), np.load(there)
    values = one["values"]
    best = np.sort(values, axis=1)
    tied = best[:, -1] - best[:, -2] <= NEAR_TIE * np.abs(values).max()
    differing = one["actions"] != other["actions"]
    difference = np.abs(one["frames"].astype(np.int16) - other["frames"]).max(axis=(1, 2))
    error = float(np.abs(values - other["values"]).max() / np.abs(values).max())
    line = (
        f"{len(values):,} frames, {(difference == 0).sum():,} equal, largest difference {difference.max()} of 255; "
        f"{len(values) - differing.sum():,} actions equal, {tied.sum()} near-ties; values within {error:.1e}"
    )
    return line, int(difference.max()) <= NEAR_FRAME and not (differing & ~tied).any()


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("steps", type=int, nargs="?")
    parser.add_argument("--follow", type=Path, metavar="FILE", help="take the actions of this recording")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the recording here")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE")
    flags = parser.parse_args()
    if flags.compare:
        line, same = compare(*flags.compare)
        print(line)
        return 0 if same else 1
    followed = None if flags.follow is None else np.load(flags.follow)["actions"]
    np.savez_compressed(flags.out, **play(flags.bundle, flags.steps, followed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
