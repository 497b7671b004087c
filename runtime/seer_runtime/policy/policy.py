"""Acting from a bundle: a frame in, an action out. The library call that a robot's own program makes.

policy = Policy.load("policy.seer")
policy.reset()
action = policy.act(frame)
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable.files import CorruptFileError, one_line
from seer_runtime.onnx.check import GraphError, check_int8
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.onnx.encoder_choice import EncoderChoice, compare
from seer_runtime.onnx.head import OnnxHead
from seer_runtime.policy.bundle import ENCODER, HEAD, INT8, PROBE, Bundle, PolicySpec, open_bundle
from seer_runtime.policy.perception import LatentPerception
from seer_runtime.policy.preprocess import Frame, FrameStack, to_frame
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, BudgetError, Ledger, Line

Action = int | NDArray[np.float32]


class Policy:
    """The agent of a bundle as an evaluation plays it: no noise, the center crop, the best action or the mean one.

    Attributes:
        spec: what it sees and does.
        perception: from frames to latents, with the stack of the episode that runs.
        choice: what was measured where a bundle has an int8 encoder too; None where the float32 one runs unasked.
        values: float32 `[M]`, what the head gave last: Q-values, or the action itself.

    """

    def __init__(
        self,
        spec: PolicySpec,
        encoder: bytes,
        head: bytes,
        *,
        threads: int = 1,
        int8: bytes | None = None,
        probe: NDArray[np.uint8] | None = None,
    ) -> None:
        """`int8` is the same encoder in whole numbers, compared on the stacks `probe` `[n, C, h, w]`.

        Raises GraphError for graphs that are none of ours or do not fit `spec`, and BudgetError.
        """
        self.spec = spec
        self.choice: EncoderChoice | None = None
        ledger = Ledger({Line.WORKSPACE: WORKSPACE_CAP_BYTES})
        self._encoder = OnnxEncoder(encoder, threads=threads, ledger=ledger)
        if int8 is not None and probe is not None:
            self._choose(OnnxEncoder(int8, threads=threads, ledger=ledger, check=check_int8), probe)
        self._head = OnnxHead(head, threads=threads, ledger=ledger)
        chain = (spec.observation_shape, self._head.latent_shape, spec.actions)
        if (self._encoder.observation_shape, self._encoder.latent_shape, self._head.outputs) != chain:
            raise GraphError(
                f"its encoder gives {self._encoder.latent_shape} of {self._encoder.observation_shape}, its head "
                f"{self._head.outputs} values of {self._head.latent_shape}; they do not fit its manifest"
            )
        buffer = ledger.allocate(Line.WORKSPACE, (spec.stack, *spec.frame_shape), np.uint8)
        self.perception = LatentPerception(
            FrameStack(spec.stack, spec.frame_shape, buffer),
            spec.crop,
            self._encoder,
            ledger,
            augmentations=0,
            rng=np.random.default_rng(0),  # nothing is drawn from it
        )
        self.values: NDArray[np.float32] = np.zeros(0, np.float32)
        self._first = True

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int = 1, int8: bool = True) -> "Policy":
        """The policy of the bundle at `path`. Raises CorruptFileError for what is not a sound one, and OSError.

        An int8 encoder that it has is used where it is faster here and near enough; never where `int8` is false.
        """
        with open_bundle(Path(path)) as bundle:
            return cls.of(bundle, threads=threads, int8=int8)

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1, int8: bool = True) -> "Policy":
        """The policy of an open bundle. Raises as `load`."""
        rounded = bundle.read(INT8) if int8 and bundle.holds(INT8) else None
        probe = None if rounded is None else bundle.arrays(PROBE).get("observations")
        try:
            return cls(bundle.spec, bundle.read(ENCODER), bundle.read(HEAD), threads=threads, int8=rounded, probe=probe)
        except (GraphError, BudgetError) as error:
            raise CorruptFileError(bundle.path, one_line(error)) from error

    def _choose(self, rounded: OnnxEncoder, probe: NDArray[np.uint8]) -> None:
        exact, shape = self._encoder, self._encoder.observation_shape
        if (rounded.observation_shape, rounded.latent_shape) != (shape, exact.latent_shape):
            raise GraphError(f"its int8 encoder gives {rounded.latent_shape} of {rounded.observation_shape}")
        if probe.dtype != np.uint8 or probe.shape[1:] != shape or len(probe) == 0:
            raise GraphError(f"its probe of {probe.dtype} {list(probe.shape)} is not of stacks {list(shape)}")
        self.choice = compare(exact, rounded, probe)
        loser, self._encoder = (exact, rounded) if self.choice.int8 else (rounded, exact)
        loser.release()

    def reset(self) -> None:
        """An episode ends: the next frame is the first of another."""
        self._first = True

    def act(self, frame: Frame | tuple[Frame, Frame]) -> Action:
        """Return the action for the next frame: a number from 0, or float32 `[A]` in [-1, 1] of its own memory.

        `frame` is uint8 `spec.frame_shape`, or a screen of any size: [H, W], [H, W, 1] or [H, W, 3]. Give a pair of
        screens `(older, newer)` where training saw the maximum of the last two, as on Atari games. Screens become
        frames as in training: `spec.resize` says how, and `preprocess.to_frame` does it. Raises ValueError for
        anything else.
        """
        frame = to_frame(frame, self.spec.frame_shape, self.spec.resize)
        observed = self.perception.observe(frame, first=self._first)
        self._first = False
        return self.decide(observed.input)

    def decide(self, latents: NDArray[Any]) -> Action:
        """The action for the latents `[N, L]` of an observation."""
        self.values = self._head(latents)
        return int(self.values.argmax()) if self.spec.discrete else self.values.copy()
