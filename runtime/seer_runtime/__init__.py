"""The data plane: bytes, replay, frozen encoder, acting policy. Knows nothing of agents and never imports torch."""

from seer_runtime.policy.policy import Policy

__all__ = ["Policy"]
