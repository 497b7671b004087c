"""Save and restore a task of the Control Suite: MuJoCo's state, the task's changes to its model, its random stream."""

from typing import Any

import numpy as np

from seer_edge.envs.state_reader import StateReader
from seer_runtime.system.state import State

MODEL_ARRAYS = (
    "body_pos",
    "body_quat",
    "dof_damping",
    "geom_pos",
    "geom_rgba",
    "geom_size",
    "hfield_data",
    "light_pos",
    "site_pos",
    "site_rgba",
    "site_size",
    "wrap_prm",
)
"""Arrays of a MuJoCo model that the suite's tasks change between episodes. A test checks that there are no others."""

_MT19937_WORDS = 624


def suite_state(env: Any) -> State:
    """Return the complete state of `env`, a task of the suite: about 10 KB, 170 KB with a quadruped's height field."""
    import mujoco

    name, key, position, has_gauss, gauss = env.task.random.get_state(legacy=True)
    assert name == "MT19937"
    arrays = {_model(array): getattr(env.physics.model.ptr, array).copy() for array in MODEL_ARRAYS}
    arrays["physics"] = env.physics.get_state(mujoco.mjtState.mjSTATE_INTEGRATION)
    arrays["random"] = np.array(key, np.uint32)
    return State(
        {
            "random_position": int(position),
            "random_has_gauss": bool(has_gauss),
            "random_gauss": float(gauss),
            "step_count": env._step_count,
            "reset_next_step": env._reset_next_step,
        },
        {name: array for name, array in arrays.items() if array.size},
    )


def restore_suite(env: Any, state: StateReader) -> None:
    """Set `env` to a state from `suite_state`. Raises StateError for an invalid state and leaves `env` unchanged."""
    import mujoco

    model, data, physics = env.physics.model.ptr, env.physics.data.ptr, env.physics
    wanted = {name: getattr(model, name) for name in MODEL_ARRAYS}
    saved = {name: state.array(_model(name), array.shape, array.dtype) for name, array in wanted.items() if array.size}
    signature = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = state.array("physics", (mujoco.mj_stateSize(model, signature),), np.float64)
    key = state.array("random", (_MT19937_WORDS,), np.uint32)
    position = state.count("random_position", _MT19937_WORDS)
    has_gauss, gauss = state.flag("random_has_gauss"), state.number("random_gauss")
    step_count, reset_next_step = state.count("step_count"), state.flag("reset_next_step")

    env.reset()  # some tasks measure their body at the start of an episode
    for name, array in saved.items():
        wanted[name][...] = array
    if model.nhfield:
        with physics.contexts.gl.make_current() as context:
            for field in range(model.nhfield):
                context.call(mujoco.mjr_uploadHField, model, physics.contexts.mujoco.ptr, field)
    env.task.random.set_state(("MT19937", key, position, int(has_gauss), gauss))
    physics.set_state(integration, signature)
    # Recompute the quantities that the camera and the next step read, as the suite does at the end of each step.
    mujoco.mj_step1(model, data)
    # Forces that only a full step computes keep their values from the reset. No reward is read before the next step.
    env._step_count, env._reset_next_step = step_count, reset_next_step


def _model(name: str) -> str:
    return f"model/{name}"
