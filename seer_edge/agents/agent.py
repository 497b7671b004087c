"""What the loop, the freeze and the checkpoint need of any agent, and the way from a batch to its heads."""

import abc
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_edge.envs.actions import Action
from seer_edge.networks.encoder import Encoder
from seer_runtime.replay.replay import Batch, Observations
from seer_runtime.system.state import State, StateError

GENERATOR = "generator"
"""The array in which an agent's state holds its random stream."""


@dataclass(frozen=True)
class UpdateResult:
    """What one update learned."""

    loss: float
    priorities: NDArray[np.float32]  # [B], how wrong each row was


class Inputs(Enum):
    """What the trained part of an encoder is given."""

    FRAMES = "frames"  # uint8 [B, C, h, w]: all of the encoder trains
    CUT = "maps at the cut"  # float32 [B, 1, L]: the layers above the cut train
    LATENTS = "latents"  # float32 [B, N, L]: nothing trains


class Agent(abc.ABC):
    """An encoder with heads that take latents, always.

    Before the freeze the encoder stands in front of the heads. From `freeze_encoder` on the frozen part's outputs are
    read from the batch or, over a replay of frames, computed once an update. One update serves all of this: it asks
    for the `_inputs` of observations and the `_latents` of those.

    Attributes:
        encoder: the online encoder.
        frozen: the frozen layers do not train any more.
        reads_latents: observations are latents `[N, L]`, not frames `[C, h, w]`; set by `freeze_encoder`, never
            guessed from an array.
        updates: how many updates were made.
        generator: the agent's random stream.

    """

    def __init__(self, encoder: Encoder, *, seed: int, device: str) -> None:
        self.device = torch.device(device)
        self.encoder = self.acting_encoder = encoder.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.updates = 0
        self.frozen = False
        self.reads_latents = False

    @property
    def contrasts(self) -> bool:
        """Whether an update reads a batch's positives."""
        return False

    # --- acting and learning -------------------------------------------------------------------------------

    def act_beside_updates(self) -> None:
        """From now on `explore` and `prepare` may run in one thread while `update` runs in another.

        They then read nothing that an update writes: `refresh` copies what acting needs.
        """
        self.acting_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def refresh(self, *, new_noise: bool = True) -> None:
        """Between two updates: new noise to explore with, and the networks as they are now to act with."""
        if self._kind is Inputs.LATENTS:
            self.acting_encoder = self.encoder  # nothing of it trains any more
        elif self.acting_encoder is not self.encoder:
            copy_parameters(self.acting_encoder, self.encoder)

    @abc.abstractmethod
    def explore(self, observation: NDArray[Any]) -> Action:
        """The action for one observation, `[C, h, w]` or `[N, L]`, as `refresh` left noise and networks."""

    def act(self, observation: NDArray[Any]) -> Action:
        """`refresh` and `explore`."""
        self.refresh()
        return self.explore(observation)

    @abc.abstractmethod
    def greedy(self, observation: NDArray[Any]) -> Action:
        """The action for one observation, `[C, h, w]` or `[N, L]`, without exploration, for evaluation."""

    def prepare(self, batch: Batch) -> Any:
        """What of an update does not depend on the networks that train; it draws no random numbers."""
        return None

    @abc.abstractmethod
    def update(self, batch: Batch, prepared: Any = None) -> UpdateResult:
        """Learn from one batch, of which `prepare` gave `prepared` since the last `refresh` or the one before."""

    @abc.abstractmethod
    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """What the heads make of the frozen part's outputs `[B, N, L]`, `[B, M]`; without noise and gradient."""

    # --- from observations to latents ----------------------------------------------------------------------

    def encode(self, observations: NDArray[np.uint8]) -> torch.Tensor:
        """What the freeze's layers give for frame stacks `[B, C, h, w]`: `[B, N, L]`, without gradient."""
        with torch.no_grad():
            frames = self._tensor(observations)
            if self.encoder.spec.whole:
                latents: torch.Tensor = self.encoder(frames)
                return latents
            return self.encoder.frozen(frames)[:, None]

    @property
    def _kind(self) -> Inputs:
        return _behind_the_cut(self.encoder) if self.frozen else Inputs.FRAMES

    def _inputs(self, observations: Observations) -> Iterable[torch.Tensor]:
        """The trained part's inputs, slice by slice: frames, valid until the next slice, or all that is behind the cut.

        May be iterated more than once; what is behind the cut is computed or copied only once, here.
        """
        if self.frozen:
            return [_joined([self._frozen_part(piece) for piece in observations.slices()])]
        return _Again(lambda: map(self._tensor, observations.slices()))

    def _read(self, observations: Observations) -> Iterator[torch.Tensor]:
        """`_inputs` as the first layer takes them, in memory of their own.

        Others may read the replay while these are learned from.
        """
        for piece in self._inputs(observations):
            yield piece if self.frozen else self.encoder.pixels(piece)

    def _frozen_part(self, observations: NDArray[Any]) -> torch.Tensor:
        """`[b, N, L]` of its own memory."""
        return self._tensor(observations).clone() if self.reads_latents else self.encode(observations)

    def _latents(
        self,
        inputs: Iterable[torch.Tensor],
        *networks: tuple[Encoder, int],
        trunk_gradient: bool = True,
        read: bool = False,
    ) -> list[torch.Tensor]:
        """`[B, L]` for the head of each (encoder, network); inputs are read once and pass each encoder's trunk once.

        The trunk is tied: only the gradient of network 0 reaches it, and none without `trunk_gradient`. The inputs are
        those of `_inputs`, or, where they were `read`, of `_read`.
        """
        kind, pieces = self._kind, []
        if kind is Inputs.LATENTS:  # nothing left to compute
            latents = _joined([*inputs])
            return [latents[:, network] for _, network in networks]
        for piece in inputs:
            with torch.set_grad_enabled(trunk_gradient and torch.is_grad_enabled()):
                piece = self.encoder.pixels(piece) if kind is Inputs.FRAMES and not read else piece
                maps = {encoder: _maps(kind, encoder, piece) for encoder in dict(networks)}
            pieces.append([_latents(kind, encoder, maps[encoder], network) for encoder, network in networks])
        # Only the narrow latents are put together: a whole minibatch's maps are 20 MB of sac-ae's at 84x84.
        return [_joined(latents) for latents in zip(*pieces, strict=True)]

    def _observe(self, observation: NDArray[Any], encoder: Encoder, network: int = 0) -> torch.Tensor:
        """`[1, L]` for one network's head of one observation."""
        pieces = observation[None]
        inputs = self._frozen_part(pieces) if self.frozen else self._tensor(pieces)
        (latents,) = self._latents([inputs], (encoder, network))
        return latents

    def _latents_behind_the_cut(self, latents: torch.Tensor, network: int = 0) -> torch.Tensor:
        """`[B, L]` for one network's head of the frozen part's outputs `[B, N, L]`, before and after the freeze."""
        kind = _behind_the_cut(self.encoder)
        return _latents(kind, self.encoder, _maps(kind, self.encoder, latents), network)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    # --- the freeze ----------------------------------------------------------------------------------------

    def encoder_weights(self) -> dict[str, NDArray[np.float32]]:
        """The encoder's weights and biases by their names in its state, as copies."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.encoder.state_dict().items()}

    @torch.no_grad()
    def take_encoder(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take on what `arrays` hold of another agent's state, for the target too (Section 5.4).

        Raises StateError where one of the encoder's is missing or has another shape.
        """
        for name, tensor in self.tensors():
            source = name.removeprefix("target_")
            if source in arrays:
                array = arrays[source]
                if array.shape != tensor.shape or array.dtype != np.float32:
                    raise StateError(f"{source} is {array.dtype} {list(array.shape)}, not float32 {list(tensor.shape)}")
                tensor.copy_(torch.from_numpy(array))
            elif source.startswith("encoder."):
                raise StateError(f"there is no {source}")

    @abc.abstractmethod
    def freeze_encoder(self, *, reads_latents: bool) -> None:
        """Freeze the encoder up to its cut, tie the target's and drop gradients and optimizer state.

        From now on batches and `act` hold latents where `reads_latents`, frames otherwise.
        """

    # --- state ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that a checkpoint keeps, by name."""

    def state(self) -> State:
        """`tensors` as arrays, with the generator's state; the number of updates.

        On the CPU the arrays are the tensors' own memory, so they hold until the next update.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors()}
        return State({"updates": self.updates}, {**arrays, GENERATOR: self.generator.get_state().numpy()})

    def restore(self, state: State) -> None:
        """Take on the state that `state` gave.

        Raises StateError where it is not this agent's, as that of one that is frozen when this one is not.
        """
        tensors, arrays = dict(self.tensors()), state.arrays
        wanted = {name: ("float32", *tensor.shape) for name, tensor in tensors.items()}
        wanted[GENERATOR] = ("uint8", *self.generator.get_state().shape)
        found = {name: (array.dtype.name, *array.shape) for name, array in arrays.items()}
        updates = state.values.get("updates")
        if found != wanted or type(updates) is not int or updates < 0:
            differing = {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)} or {"updates"}
            raise StateError(f"the state is another agent's: {', '.join(sorted(differing)[:3])} differ")
        try:
            self.generator.set_state(torch.from_numpy(arrays[GENERATOR]))
        except RuntimeError as error:
            raise StateError(f"not the state of a random stream: {error}") from error
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name]))
        self.updates = updates


def tie(target: nn.Module, online: nn.Module, names: Iterable[str]) -> None:
    """Make the parameters `names` of `target` those of `online`."""
    for name in names:
        module, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(module), leaf, online.get_parameter(name))


@torch.no_grad()
def copy_parameters(target: nn.Module, source: nn.Module) -> None:
    """Make the parameters of `target` those of `source`."""
    torch._foreach_copy_(list(target.parameters()), list(source.parameters()))


class _Again:
    """An iterable that begins anew each time."""

    def __init__(self, begin: Callable[[], Iterator[torch.Tensor]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self._begin()


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """The slices of a minibatch put together; most often it is one."""
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces))


def _behind_the_cut(encoder: Encoder) -> Inputs:
    return Inputs.LATENTS if encoder.spec.whole else Inputs.CUT


def _maps(kind: Inputs, encoder: Encoder, inputs: torch.Tensor) -> torch.Tensor:
    """The trunk's last maps `[B, flat_size]`, or the latents `[B, N, L]` where there is nothing left to compute."""
    match kind:
        case Inputs.FRAMES:
            return encoder.maps_of_pixels(inputs)
        case Inputs.CUT:
            return encoder.rest(inputs.flatten(1))
        case Inputs.LATENTS:
            return inputs


def _latents(kind: Inputs, encoder: Encoder, maps: torch.Tensor, network: int) -> torch.Tensor:
    """`[B, L]` for one network's head."""
    if kind is Inputs.LATENTS:
        return maps[:, network]
    return encoder.project(maps if network == 0 else maps.detach(), network)
