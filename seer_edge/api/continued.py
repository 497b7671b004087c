"""Options for a run that may exist already."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.config.hyperparameters import override_settings
from seer_edge.config.request import ResumeRequest, RunRequest
from seer_edge.config.values import AUTO, NEVER
from seer_edge.errors import BadInputError

_SETTINGS = {
    "from_": "source",
    **{
        name: name
        for name in (
            *("algo", "encoder", "resolution", "color", "gray_levels", "render_observations", "obs_key", "protocol"),
            *("demos", "freeze_layers", "augmentations", "replay", "store", "seed", "pipeline", "keep_best"),
            *("log_every", "tensorboard"),
        )
    },
}
"""The field of `TrainConfig` of each option that cannot change in a run that has begun."""
_RESUMED = {field.name for field in dataclasses.fields(ResumeRequest)}


def check_options(folder: Path, options: Mapping[str, Any], request: RunRequest, saved: TrainConfig) -> None:
    """Raise BadInputError if an option that `resume` does not take differs from the settings `saved` in the folder.

    `request` has the values of `options`, without units. Options that are None are left to the run.
    """
    given = {name for name, value in options.items() if value is not None} - _RESUMED
    for shown, value, had in _compared(given, request, saved):
        if value != had:
            raise BadInputError(
                f"{shown} {value}: the run in {folder} has {'none' if had is None else had}; leave it out, or give "
                "another run_dir"
            )


def _compared(given: set[str], request: RunRequest, saved: TrainConfig) -> Iterator[tuple[str, Any, Any]]:
    """Return name, given value and the run's value of each option."""
    for name, field in _SETTINGS.items():
        if name in given:
            yield name.strip("_"), getattr(request, name), getattr(saved, field)
    if "preset" in given:
        named = str(request.preset)
        yield "preset", saved.preset if named.lower() == saved.preset.lower() else named, saved.preset
    if "freeze_at" in given:
        had: Any = NEVER if saved.freeze_at is None else saved.freeze_at
        yield "freeze_at", request.freeze_at, had if saved.freeze_window is None else AUTO
    # After the freeze, a run of `auto` has the codec that was chosen.
    if "latent_codec" in given and request.latent_codec != AUTO:
        yield "latent_codec", request.latent_codec, saved.latent_codec
    if "tensorboard_dir" in given:
        yield "tensorboard_dir", str(Path(request.tensorboard_dir or "").absolute()), saved.tensorboard_dir
    for key, value in request.set:
        settings, lines = override_settings(saved.algo, saved.settings, {key: value})
        # A run that imports heads begins with other settings than it was given.
        if settings != saved.settings and not {*lines} <= {*saved.overrides}:
            yield f"set {key}", value, getattr(saved.settings, key.replace("-", "_"))
