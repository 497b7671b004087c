"""The data plane of seer-edge: byte accounting, durable files, replay, ONNX inference and the acting policy.

This package contains no learning algorithm. It imports neither torch nor seer_edge.
"""

from seer_runtime.policy.policy import Policy

__all__ = ["Policy"]
