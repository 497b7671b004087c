"""Memory that is not there: allocations that fail, and ceilings that are hit in mid-run."""

import ctypes
import functools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seer_runtime.replay
from seer_edge import checkpoint, freeze
from seer_edge.loop import Session, StepReport
from seer_runtime import convert
from tests.faults import runs

BLOCKS = [2**size for size in (24, 20, 16, 12)]


def starve(spare_bytes: int) -> None:
    """Let this process have no more than `spare_bytes` beyond what it holds: free memory of its heap is taken too."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.argtypes = (ctypes.c_void_p,)
    taken = []
    for size in BLOCKS:
        while (address := malloc(size)) is not None:
            taken.append((size, address))
    freed = 0
    while freed < spare_bytes:
        size, address = taken.pop()
        free(address)
        freed += size


def starve_at(step: int, spare_bytes: int, tell: Any) -> None:
    make = Session.step

    def stepping(session: Session) -> StepReport:
        if session.timestep == step:
            tell(step)
            starve(spare_bytes)
        return make(session)

    Session.step = stepping  # type: ignore[method-assign]


def starve_in(owner: Any, name: str, call: int, spare_bytes: int, tell: Any) -> None:
    function, calls = getattr(owner, name), 0

    def starving(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            tell(name)
            starve(spare_bytes)
        return function(*args, **given)

    setattr(owner, name, starving)
