"""Where the time of a session's steps goes, from the profiler of PyTorch: `speedbench.py causes`."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commandline import render
from torch._C._profiler import _RecordFunctionFast
from torch.autograd.profiler import profile

if TYPE_CHECKING:
    from seer_edge.training.session import Session

MARK = "part: "
STEP = "the rest of the step"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "conv2d", "conv_depthwise", "convolution_backward")
COPIES = ("copy", "clone", "cat", "contiguous", "index", "gather", "select_backward", "to_copy")
ADAM = ("fused_adam", "norm", "linalg_vector_norm")
KINDS = ("products", "Adam, norm", "copies", "other operators", "outside operators")
LARGEST = 8


@dataclass(frozen=True)
class Causes:
    """Mean milliseconds of a step, by part of the step and kind of work."""

    parts: dict[str, dict[str, float]]  # in the order in which a step runs them
    operators: dict[str, float]  # by name, all parts together
    alone: float  # a step without the profiler

    @property
    def total(self) -> float:
        """A step under the profiler."""
        return sum(sum(kinds.values()) for kinds in self.parts.values())


def kind_of(operator: str) -> str:
    """Return the kind of work that the operator `aten::...` itself does."""
    name = operator.removeprefix("aten::").removeprefix("_foreach_").strip("_")
    if name in PRODUCTS or name.endswith(("_convolution", "_conv2d", "_conv2d_forward", "_conv2d_backward")):
        return "products"
    if name in ADAM:
        return "Adam, norm"
    return "copies" if name.startswith(COPIES) else "other operators"


def parts_of(session: "Session") -> Iterator[tuple[Any, str, str]]:
    """Yield object, method and name of each part of the session's step. A part may contain others."""
    agent, replay, env = session.agent, session.replay, session.env
    yield agent, "refresh", "refresh, with noisy weights"
    yield agent, "explore", "act"
    yield env, "step", "environment beside the emulator"
    yield env, "reset", "environment beside the emulator"
    yield replay, "append", "store"
    yield session.perception, "observe", "perceive"
    yield replay, "sample", "sample"
    yield agent, "prepare", "update: prepare, with target"
    yield agent, "update", "update"
    yield replay, "update_priorities", "write priorities"


class _Emulator:
    """An emulator whose frames are a part."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self.act = _marked(ale.act, "emulator")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)


def _marked(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    mark = MARK + name

    def run(*arguments: Any, **named: Any) -> Any:
        with _RecordFunctionFast(mark):  # record_function takes 0.2 ms where its code is not in the cache
            return method(*arguments, **named)

    return run


@contextmanager
def marked(session: "Session") -> Iterator[None]:
    """Mark the parts of the session's step for the profiler."""
    parts = list(parts_of(session))
    for owner, method, name in parts:
        object.__setattr__(owner, method, _marked(getattr(owner, method), name))
    game: Any = session.env._env
    emulator = getattr(game, "_emulator", None)
    if emulator is not None:
        ale, emulator.ale = emulator.ale, _Emulator(emulator.ale)
    try:
        yield
    finally:
        for owner, method, _ in parts:
            object.__delattr__(owner, method)
        if emulator is not None:
            emulator.ale = ale


def measure(session: "Session", times: int) -> Causes:
    """Profile `times` steps. The result is the mean of the faster half of them, which other programs disturb least."""
    session.step()
    alone = []
    for _ in range(times):
        begin = time.perf_counter()
        session.step()
        alone.append(1e3 * (time.perf_counter() - begin))
    step = _marked(session.step, STEP)
    with marked(session):
        step()
        with profile() as profiled:
            for _ in range(times):
                step()
    steps = [_of_step(event) for event in profiled.function_events if event.name == MARK + STEP]
    fast = _faster_half(steps, lambda counted: sum(counted.values()))
    summed = sum(fast, Counter[tuple[str, str]]())
    names = dict.fromkeys([name for _, _, name in parts_of(session)] + ["emulator", STEP])
    parts: dict[str, dict[str, float]] = {name: dict.fromkeys(KINDS, 0.0) for name in names}
    operators: Counter[str] = Counter()
    for (part, operator), taken in summed.items():
        parts[part][kind_of(operator) if operator else KINDS[-1]] += taken / len(fast)
        operators[operator] += taken / len(fast)
    del operators[""]
    quick = _faster_half(alone, float)
    return Causes(
        {name: kinds for name, kinds in parts.items() if any(kinds.values())}, dict(operators), sum(quick) / len(quick)
    )


def _faster_half(values: list[Any], key: Callable[[Any], float]) -> list[Any]:
    return sorted(values, key=key)[: -(-len(values) // 2)]


def _of_step(event: Any) -> "Counter[tuple[str, str]]":
    """Return milliseconds by part and operator, both of one step. Time outside operators has the operator ""."""
    counted: Counter[tuple[str, str]] = Counter()
    waiting = [(event, "")]
    while waiting:
        event, part = waiting.pop()
        mark = event.name.startswith(MARK)
        part = event.name.removeprefix(MARK) if mark else part
        counted[part, "" if mark or not event.name.startswith("aten::") else event.name] += (
            event.self_cpu_time_total / 1e3
        )
        waiting += [(child, part) for child in event.cpu_children]
    return counted


def table(phase: str, causes: Causes) -> Iterable[str]:
    """Yield the printed lines of one phase."""

    def line(name: str, kinds: list[float]) -> tuple[str, ...]:
        total = sum(kinds)
        return (name, *(f"{taken:.2f}" for taken in kinds), f"{total:.2f}", f"{100 * total / causes.total:.0f} %")

    lines = [line(name, [*kinds.values()]) for name, kinds in causes.parts.items()]
    sums = [sum(kinds[kind] for kinds in causes.parts.values()) for kind in KINDS]
    header = (f"{phase}: wall ms of a step", *KINDS, "total", "share")
    yield render(header, [*lines, line("step", sums)])
    largest = sorted(causes.operators.items(), key=lambda item: -item[1])[:LARGEST]
    yield "largest operators: " + ", ".join(f"{name.removeprefix('aten::')} {taken:.2f}" for name, taken in largest)
    yield f"a step without the profiler: {causes.alone:.2f} ms; the profiler adds {causes.total - causes.alone:.2f} ms"
