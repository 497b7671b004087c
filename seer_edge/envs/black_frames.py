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
        self._black_since: int | None = None  # step of the first of the black frames
        self._reported = False

    def step(self, frame: Frame) -> None:
        """Count one step, and look at its frame."""
        self._step += 1
        self.see(frame)
        since = self._black_since
        if since is not None and self._step - since >= PATIENCE_STEPS and not self._reported:
            self._reported = True
            LOG.warning(
                "environment %r: every frame since step %s is black, and earlier ones were not, so the agent sees "
                "nothing. Has a renderer lost its OpenGL context, or a camera its picture? Check the environment, and "
                "start again from an earlier checkpoint",
                self._env,
                f"{since:,}",
            )

    def see(self, frame: Frame) -> None:
        """Look at one frame, uint8 of any shape."""
        if self._bright is not None and frame.item(self._bright):  # usually true, and ten times as fast
            self._black_since = None
            return
        brightest = int(frame.argmax())
        if frame.item(brightest):
            self._bright, self._black_since = brightest, None
        elif self._bright is not None and self._black_since is None:
            self._black_since = self._step
