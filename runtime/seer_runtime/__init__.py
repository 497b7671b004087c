"""The data plane: bytes, replay, frozen encoder. Knows nothing of agents and never imports torch."""
