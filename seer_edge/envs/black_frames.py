"""Report frames that turn black: a renderer or a camera often fails in this way, without an exception."""

import logging

from seer_edge.envs.environment import Frame

LOG = logging.getLogger(__name__)

PATIENCE_STEPS = 50
"""Black frames in a row that count as a failure. Shorter darkness, as between two scenes, is normal."""


class BlackFrames:
    """Warns once when all frames are zero from some step on, after at least one frame that was not.

    `first_step` is the number of agent steps before the first frame.
    """

    def __init__(self, env: str, first_step: int = 0) -> None:
        self._env = env
        self._step = first_step
        self._bright: int | None = None  # index of a pixel that was not black in the last bright frame
        self._black_steps = 0
        self._reported = False

    def step(self, frame: Frame) -> None:
        """Count one step, and look at its frame."""
        self._step += 1
        self.see(frame)
        if self._black_steps:
            self._black_steps += 1
            if self._black_steps > PATIENCE_STEPS and not self._reported:
                self._reported = True
                self._report()

    def see(self, frame: Frame) -> None:
        """Look at one frame, uint8 of any shape."""
        if self._bright is not None and frame.item(self._bright):  # usually true, and a hundred times as fast
            self._black_steps = 0
            return
        brightest = int(frame.argmax())
        if frame.item(brightest):
            self._bright, self._black_steps = brightest, 0
        elif self._bright is not None and not self._black_steps:
            self._black_steps = 1

    def _report(self) -> None:
        LOG.warning(
            "environment %r: every frame since step %s is black, and earlier ones were not; the agent sees nothing. A "
            "renderer may have lost its OpenGL context, or a camera its picture. Check the environment, then resume "
            "from a checkpoint before that step",
            self._env,
            f"{self._step - self._black_steps + 2:,}",
        )
