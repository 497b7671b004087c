"""Render without a display: select the OpenGL backend before anything imports OpenGL."""

import contextlib
import ctypes
import logging
import os
import sys
from typing import Any

from seer_edge.envs.names import UnavailableEnvError
from seer_edge.errors import describe_error

INSTALL_HINT = "pip install 'seer-edge[dmc]'"
if sys.version_info >= (3, 13):
    # dm_control requires labmaze, which has no wheel for 3.13. The suite does not import it.
    INSTALL_HINT += " && pip install --no-deps dm_control"
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}


def load_suite() -> Any:
    """Import and return the module `dm_control.suite`, set up to render without a display.

    Unless the user has set MUJOCO_GL, set it for this process: to EGL, or to OSMesa where EGL is missing. Unless the
    user has set LP_NUM_THREADS, Mesa's software renderer runs on the calling thread only. A second thread would render
    a quarter faster and use a quarter more CPU time.

    Raises UnavailableEnvError where a package or both libraries are missing, or where MUJOCO_GL has a bad value.
    """
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = _first_backend()
    elif (chosen := os.environ["MUJOCO_GL"].lower()) not in (*_LIBRARIES, "glfw"):
        raise UnavailableEnvError(f"MUJOCO_GL={chosen} is not one of egl, osmesa and glfw; unset it")
    elif chosen == "glfw" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UnavailableEnvError("MUJOCO_GL=glfw needs a display, but DISPLAY is not set; unset MUJOCO_GL")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import dm_control.suite
    except ModuleNotFoundError as error:
        raise UnavailableEnvError(f"control tasks need dm_control ({error}): {INSTALL_HINT}") from error
    except Exception as error:  # the import opens OpenGL's display, which may fail in any way
        raise cannot_render(error) from error
    # Hide MuJoCo's deprecation warnings about the suite's models, which users cannot fix.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return dm_control.suite


def prepare_rendering() -> None:
    """Let a Gymnasium environment render without a display, if the user has not chosen how.

    Set the OpenGL backend of MuJoCo as for control tasks, where a library for it is installed, and the drivers of SDL,
    which pygame uses.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if not os.environ.get("MUJOCO_GL"):
        with contextlib.suppress(UnavailableEnvError):
            os.environ["MUJOCO_GL"] = _first_backend()


def cannot_render(error: Exception) -> UnavailableEnvError:
    """Return the exception to raise where the selected OpenGL backend fails with `error`."""
    return UnavailableEnvError(
        f"control tasks cannot be rendered with MUJOCO_GL={os.environ['MUJOCO_GL']}: {describe_error(error)}; "
        "unset MUJOCO_GL, PYOPENGL_PLATFORM and MUJOCO_EGL_DEVICE_ID, then apt-get install libegl1 libgl1-mesa-dri, "
        "or apt-get install libosmesa6 and set MUJOCO_GL=osmesa"
    )


def _first_backend() -> str:
    for backend, library in _LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return backend
    raise UnavailableEnvError(
        "control tasks need EGL or OSMesa to render, and neither is installed; "
        "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"
    )
