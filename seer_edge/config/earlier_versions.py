"""What `config.json` lacks in runs of earlier versions."""

from collections.abc import Mapping
from typing import Any

BEFORE_RECORDED: Mapping[str, Any] = {
    "resize": "area",
    "blank_at_lost_life": True,
    "overrides": (),
    "obs_key": None,
    "env_kwargs": None,
    "eval_in": "separate",
    "eval_max_steps": None,
    "stop_at_return": None,
    "keep_best": False,
    "tensorboard_dir": None,
    "environment": None,
    "store": "paper",
    "gray_levels": None,
    "keep_checkpoint": (),
    "origin": None,
    "analyze": False,
    "freeze_window": None,
    "wandb": None,
    "mlflow": None,
    "eval_video": False,
    "hz": None,
    "max_updates_per_step": 1,
    "min_updates_per_step": 0.2,
    "rest_after_seconds": 1.0,
    "action_limit": None,
    "slew_rate": None,
    "control_socket": None,
    "status_port": None,
    "demos": None,
    "take": None,
    "schedule_timesteps": None,
}
"""Values that runs had whose `config.json` was written before these entries existed."""
