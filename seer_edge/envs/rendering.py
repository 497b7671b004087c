"""Rendering of control tasks without a display: OpenGL is chosen before anything imports it."""

import ctypes
import logging
import os
import sys
from typing import Any

from seer_edge.envs.names import UnavailableEnvError
from seer_edge.errors import origin

INSTALL_HINT = "pip install 'seer-edge[dmc]'"
if sys.version_info >= (3, 13):
    # dm_control requires labmaze, which has no wheel for 3.13. The suite does not import it.
    INSTALL_HINT += " && pip install --no-deps dm_control"
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}


def load_suite() -> Any:
    """The module `dm_control.suite`, imported such that it renders without a display.

    Sets MUJOCO_GL for this process where the user has not: EGL, else OSMesa. Mesa's software renderer then draws on the
    calling thread alone, unless LP_NUM_THREADS says otherwise: a second thread adds a quarter to the speed and as much
    to the CPU time. Raises UnavailableEnvError where a package or both libraries are missing.
    """
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = _first_backend()
    elif (chosen := os.environ["MUJOCO_GL"].lower()) not in (*_LIBRARIES, "glfw"):
        raise UnavailableEnvError(f"MUJOCO_GL={chosen} is none of egl, osmesa and glfw; unset it")
    elif chosen == "glfw" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UnavailableEnvError("MUJOCO_GL=glfw needs a display, and DISPLAY is not set; unset MUJOCO_GL")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import dm_control.suite
    except ModuleNotFoundError as error:
        raise UnavailableEnvError(f"control tasks need dm_control ({error}): {INSTALL_HINT}") from error
    except Exception as error:  # OpenGL's display is made by the import
        raise cannot_render(error) from error
    # What MuJoCo's compiler deprecates in the suite's models is not for the user of a task to mend.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return dm_control.suite


def cannot_render(error: Exception) -> UnavailableEnvError:
    """What to raise where OpenGL was chosen and fails with `error`."""
    return UnavailableEnvError(
        f"control tasks cannot be rendered with MUJOCO_GL={os.environ['MUJOCO_GL']}: {origin(error)}; "
        "unset MUJOCO_GL, PYOPENGL_PLATFORM and MUJOCO_EGL_DEVICE_ID where they are set, and apt-get install libegl1 "
        "libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa"
    )


def _first_backend() -> str:
    for backend, library in _LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return backend
    raise UnavailableEnvError(
        "control tasks are rendered with EGL or OSMesa and neither is here: "
        "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"
    )
