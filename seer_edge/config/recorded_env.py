"""What a run records of its environment, so that `plan` and `export` need not open it, and a change is noticed."""

from typing import Any

from seer_edge.envs import Continuous, Discrete, EnvSpec
from seer_runtime.policy.actions import read_own_actions
from seer_runtime.policy.bundle import ACTIONS_MAX, SIDE_MAX
from seer_runtime.policy.pictures import read_picture
from seer_runtime.policy.preprocess import Resize
from seer_runtime.system.manifest_reader import ManifestReader


def env_to_json(spec: EnvSpec) -> dict[str, Any]:
    """Return plain data for `config.json`. Id, name and resize have entries of their own there."""
    kind, own = spec.actions.kind, spec.own_actions
    return {
        "frame_shape": list(spec.frame_shape),
        "crop_shape": list(spec.crop_shape),
        "actions": {"kind": kind, "count": spec.actions.outputs, **({} if own is None else own.to_json())},
        "process_bytes": spec.process_bytes,
        "as_registered": spec.as_registered,
        **({} if spec.picture is None else {"picture": spec.picture.to_json()}),
    }


def env_from_json(data: Any, env: str, name: str, resize: Resize) -> EnvSpec:
    """Return the spec that `env_to_json` wrote. Raises ValueError that names the invalid entry."""
    fields = ManifestReader({"environment": data})
    frame, crop = (fields.counts(f"environment.{part}", SIDE_MAX) for part in ("frame_shape", "crop_shape"))
    if frame[:-2] not in ((), (3,)) or len(frame) < 2 or len(crop) != 2:
        raise ValueError(f"environment has frames of {list(frame)} and crops of {list(crop)}")
    count = fields.count("environment.actions.count", 1, ACTIONS_MAX)
    discrete = fields.choice("environment.actions.kind", (Discrete.kind, Continuous.kind)) == Discrete.kind
    as_registered = fields.value("environment.as_registered")
    if not isinstance(as_registered, bool):
        raise ValueError("environment.as_registered is not true or false")
    return EnvSpec(
        env,
        name,
        frame,
        (crop[0], crop[1]),
        Discrete(count) if discrete else Continuous(count),
        fields.count("environment.process_bytes", 0, 2**50),
        as_registered,
        resize,
        read_own_actions(fields.record("environment.actions"), count),
        read_picture(fields.record("environment"), "environment"),
    )


def changed_since(then: EnvSpec, now: EnvSpec) -> str | None:
    """Return how an environment differs from that of a run, if the run cannot continue in it, else None."""
    if (then.actions, then.frame_shape, then.crop_shape) == (now.actions, now.frame_shape, now.crop_shape):
        return None
    return f"it had {_shown(then)} when the run began, and has {_shown(now)} now"


def _shown(spec: EnvSpec) -> str:
    return f"{spec.actions} and frames of {'x'.join(map(str, spec.frame_shape))}"
