"""Train vision agents inside a memory budget, on desktops and on boards.

Importing the package is cheap. Each function imports what it needs when it is called, so only learning imports torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seer_edge.version import __version__

if TYPE_CHECKING:
    from seer_edge.api import (
        AnalysisResult,
        BadInputError,
        BytePlan,
        EnvironmentFailedError,
        EvaluationResult,
        ExportResult,
        ForkOptions,
        ForkResult,
        Learner,
        RecordResult,
        ReportResult,
        ReproductionResult,
        ResumeOptions,
        RunOptions,
        RunResult,
        RunStoppedError,
        SweepEstimate,
        SweepJob,
        SweepResult,
        act,
        analyze,
        evaluate,
        export,
        fork,
        plan,
        plan_of_run,
        record,
        report,
        reproduce,
        resume,
        sweep,
        train,
    )
    from seer_runtime.policy.policy import Policy

__all__ = [
    "AnalysisResult",
    "BadInputError",
    "BytePlan",
    "EnvironmentFailedError",
    "EvaluationResult",
    "ExportResult",
    "ForkOptions",
    "ForkResult",
    "Learner",
    "Policy",
    "RecordResult",
    "ReportResult",
    "ReproductionResult",
    "ResumeOptions",
    "RunOptions",
    "RunResult",
    "RunStoppedError",
    "SweepEstimate",
    "SweepJob",
    "SweepResult",
    "__version__",
    "act",
    "analyze",
    "evaluate",
    "export",
    "fork",
    "plan",
    "plan_of_run",
    "record",
    "report",
    "reproduce",
    "resume",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "seer_runtime.policy.policy" if name == "Policy" else "seer_edge.api"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
