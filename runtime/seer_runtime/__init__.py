"""The data plane of seer-edge: byte accounting, durable files, replay, ONNX inference and the acting policy.

This package contains no learning algorithm. It imports neither torch nor seer_edge, and `Policy` when it is first used.
"""

from typing import TYPE_CHECKING, Any

from seer_runtime.onnx import load as load  # turns the telemetry of ONNX Runtime off, also for a user's own import

if TYPE_CHECKING:
    from seer_runtime.policy.policy import Policy

__all__ = ["Policy"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from seer_runtime.policy.policy import Policy

    return Policy
