"""The Python API: the commands as functions, with the names and units of the flags.

May import every folder but `cli`, which is a thin layer over it. torch is imported only by the functions that learn.
Start with `runs.py` (plan, train, resume), then `policies.py` (evaluate, act, export), `reports.py` and
`analysis.py`. `planning.py` turns a request into a plan.
"""

from seer_edge.api.analysis import analyze
from seer_edge.api.forks import fork
from seer_edge.api.learner import Learner
from seer_edge.api.policies import act, evaluate, export, record
from seer_edge.api.reports import follow, report
from seer_edge.api.reproduction import description_of, reproduce
from seer_edge.api.results import (
    AnalysisResult,
    EvaluationResult,
    ExportResult,
    ForkResult,
    RecordResult,
    ReportResult,
    ReproductionResult,
    RunResult,
    SweepEstimate,
    SweepJob,
    SweepResult,
)
from seer_edge.api.runs import plan, plan_of_run, resume, train
from seer_edge.api.sweeps import sweep
from seer_edge.config.plan import BytePlan
from seer_edge.config.request import ForkOptions, ResumeOptions, RunOptions
from seer_edge.errors import BadInputError, EnvironmentFailedError, RunStoppedError

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
    "act",
    "analyze",
    "description_of",
    "evaluate",
    "export",
    "follow",
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
