"""The acting policy: load a bundle and return an action for each frame.

Example:
    policy = Policy.load("policy.seer")
    policy.reset()  # at the start of each episode
    action = policy.act(observation)  # for env.step

"""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable.files import CorruptFileError, one_line
from seer_runtime.onnx.check import GraphError, check_int8
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.onnx.encoder_choice import EncoderChoice, compare
from seer_runtime.onnx.head import OnnxHead
from seer_runtime.policy.bundle import ENCODER, HEAD, INT8, PROBE, Bundle, PolicySpec, open_bundle
from seer_runtime.policy.perception import LatentPerception
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, BudgetError, Ledger, Line

Action = int | NDArray[Any]


class Policy:
    """The policy of a bundle, as in an evaluation: the center crop, no noise, and the best or the mean action.

    Attributes:
        spec: the observations and actions of the policy.
        perception: turns frames into latents; it holds the frame stack of the running episode.
        choice: the comparison of the int8 and float32 encoders, or None if only the float32 encoder was loaded.
        values: the last output of the head, float32 `[M]`: Q-values, or the continuous action.

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
        """Check and open the ONNX graphs `encoder` and `head`.

        `int8` is the same encoder with int8 convolutions. It replaces the float32 encoder if it is faster and accurate
        on the stacks `probe`, uint8 `[n, C, h, w]`. `threads` is the number of threads of ONNX Runtime.

        Raises GraphError for graphs that are invalid or do not match `spec`, and BudgetError if they need more
        workspace than `WORKSPACE_CAP_BYTES`.
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
                f"the encoder maps {self._encoder.observation_shape} to {self._encoder.latent_shape} and the head maps "
                f"{self._head.latent_shape} to {self._head.outputs} values, which does not match the manifest"
            )
        buffer = ledger.allocate(Line.WORKSPACE, (spec.stack, *spec.frame_shape), np.uint8)
        self.perception = LatentPerception(
            FrameStack(spec.stack, spec.frame_shape, buffer),
            spec.crop,
            self._encoder,
            ledger,
            augmentations=0,
            rng=np.random.default_rng(0),  # unused, because there are no random crops
        )
        self.values: NDArray[np.float32] = np.zeros(0, np.float32)
        self._first = True

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int = 1, int8: bool = True) -> "Policy":
        """Load the policy of the bundle at `path`.

        If the bundle contains an int8 encoder and `int8` is true, the faster of the two encoders is used, unless the
        error of the int8 encoder is too large. Raises CorruptFileError if the file is not a valid bundle, and OSError.
        """
        with open_bundle(Path(path)) as bundle:
            return cls.of(bundle, threads=threads, int8=int8)

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1, int8: bool = True) -> "Policy":
        """Return the policy of an open bundle. Raises as `load`."""
        graph = bundle.read(INT8) if int8 and bundle.holds(INT8) else None
        probe = None if graph is None else bundle.arrays(PROBE).get("observations")
        try:
            return cls(bundle.spec, bundle.read(ENCODER), bundle.read(HEAD), threads=threads, int8=graph, probe=probe)
        except (GraphError, BudgetError) as error:
            raise CorruptFileError(bundle.path, one_line(error)) from error

    def _choose(self, int8: OnnxEncoder, probe: NDArray[np.uint8]) -> None:
        """Replace the float32 encoder by `int8` if the comparison on `probe` says so. Release the other one."""
        float32, shape = self._encoder, self._encoder.observation_shape
        if (int8.observation_shape, int8.latent_shape) != (shape, float32.latent_shape):
            raise GraphError(
                f"the int8 encoder maps {int8.observation_shape} to {int8.latent_shape}, "
                f"the float32 encoder {shape} to {float32.latent_shape}"
            )
        if probe.dtype != np.uint8 or probe.shape[1:] != shape or len(probe) == 0:
            raise GraphError(f"the probe is {probe.dtype} {list(probe.shape)}, not uint8 stacks of {list(shape)}")
        self.choice = compare(float32, int8, probe)
        unused, self._encoder = (float32, int8) if self.choice.int8 else (int8, float32)
        unused.release()

    def reset(self) -> None:
        """Start a new episode: the next frame is its first."""
        self._first = True

    def act(self, observation: Any) -> Action:
        """Return the action for the next observation, as the environment's own `step` takes it.

        It is an integer of its `Discrete` space, or a new array of the shape, dtype and bounds of its `Box`. Bundles of
        earlier versions do not record these: then it is the result of `act_normalized`.

        `observation` is that of the environment, if `spec.picture` describes it: a picture of another dtype, range or
        order of channels, or a dictionary with one. It may always be a screen of any size, uint8 [H, W], [H, W, 1] or
        RGB [H, W, 3], or a frame, uint8 of shape `spec.frame_shape`. An array with the shape, dtype and range of
        `spec.picture` is an observation. For Atari games, pass the last two screens as a pair `(older, newer)`, because
        training saw their maximum. `spec.to_frame` converts all of these to frames as in training. Raises ValueError
        for anything else.
        """
        return cast(Action, self.spec.own(self.act_normalized(observation)))

    def act_normalized(self, observation: Any) -> Action:
        """Return the action for the next observation as the agent learned it; `observation` is as for `act`.

        It is an index from 0, or a new array float32 `[A]` in [-1, 1]. `spec.own` converts it to the environment's.
        """
        observed = self.perception.observe(self.spec.to_frame(observation), first=self._first)
        self._first = False
        return self.decide(observed.input)

    def decide(self, latents: NDArray[Any]) -> Action:
        """Return the normalized action for the latents of an observation, float32 `[N, L]`."""
        self.values = self._head(latents)
        return int(self.values.argmax()) if self.spec.discrete else self.values.copy()
