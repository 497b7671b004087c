"""The current OpenGL context of EGL: a property of the thread that environments with a renderer share."""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

_DRAW, _READ = 0x3059, 0x305A
_OPENGL_API = 0x30A2


@dataclass(frozen=True)
class GlContext:
    """A context that was current, with its display and surfaces: handles of EGL."""

    display: int
    draw: int | None
    read: int | None
    context: int

    @classmethod
    def current(cls) -> "GlContext | None":
        """Return the current context of this thread, or None if there is none or no module has imported EGL."""
        egl = _egl()
        if egl is None:
            return None
        egl.eglBindAPI(_OPENGL_API)  # an eglReleaseThread selects OpenGL ES, whose current context is another one
        context, display = egl.eglGetCurrentContext(), egl.eglGetCurrentDisplay()
        if context is None or display is None:
            return None
        return cls(display, egl.eglGetCurrentSurface(_DRAW), egl.eglGetCurrentSurface(_READ), context)

    def make_current(self) -> None:
        """Make the context current again, unless it is. Does nothing if EGL refuses."""
        egl = _egl()
        egl.eglBindAPI(_OPENGL_API)
        if egl.eglGetCurrentContext() != self.context:
            egl.eglMakeCurrent(self.display, self.draw, self.read, self.context)


_library: Any = None


def _egl() -> Any:
    global _library
    if _library is None and "OpenGL.EGL" in sys.modules:
        library = ctypes.CDLL("libEGL.so.1")
        for name in ("eglGetCurrentContext", "eglGetCurrentDisplay", "eglGetCurrentSurface"):
            getattr(library, name).restype = ctypes.c_void_p
        library.eglGetCurrentSurface.argtypes = [ctypes.c_int]
        library.eglMakeCurrent.argtypes = [ctypes.c_void_p] * 4
        _library = library
    return _library
