"""Folders that look like runs, for the tests of reports."""

import csv
import json
from pathlib import Path
from typing import Any

COLUMNS = (
    "time/total_timesteps",
    "rollout/ep_rew_mean",
    "eval/mean_reward",
    "eval/std_reward",
    "eval/mean_ep_length",
    "memory/observation_bytes",
    "memory/budget_bytes",
    "replay/rows",
    "replay/capacity",
    "seer/frozen",
    "compute/flops",
    "time/time_elapsed",
)


def make_run(folder: Path, seed: int = 0, score: float = 100.0, status: str = "finished", **settings: Any) -> Path:
    """Write a run of 10 rows of 1,000 steps, frozen at 4,000 and evaluated at 5,000 and 10,000."""
    config = {"env": "ALE/Alien-v5", "env_name": "Alien", "algo": "rainbow", "seed": seed, "total_timesteps": 10_000}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "freeze_at": 4000, **settings}))
    (folder / "summary.json").write_text(json.dumps({"status": status, "freeze": {"timestep": 4000}}))
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in range(1, 11):
            evaluation = [score * row / 10, 5.0] if row % 5 == 0 else ["", ""]
            figures = [
                row * 1000,
                row,
                *evaluation,
                7_000_000,
                7_000_000,
                row,
                20,
                int(row >= 4),
                row * 10**12,
                row * 60,
            ]
            writer.writerow(figures)
    with (folder / "episodes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "return", "length", "updates"])
        writer.writerows([step, step / 100, 500, step] for step in range(500, 10_001, 500))
    return folder
