"""The base class of all agents: what the loop, the freeze and the checkpoint call, and the path from batch to heads."""

import abc
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_edge.agents.actor import Actor
from seer_edge.agents.inputs import Inputs, copy_parameters, input_of, latents_of_maps, maps_of
from seer_edge.envs.actions import Action
from seer_edge.networks.encoder import Encoder
from seer_runtime.replay.replay import Batch, Observations
from seer_runtime.system.state import State, StateError

GENERATOR = "generator"
"""Name of the array with the random stream in an agent's state."""

_GENERATOR_STATES = {("uint8", torch.Generator().get_state().numel()), ("uint8", 16)}
"""Types and sizes of the state of a random stream on the CPU and on CUDA."""


Wait = Callable[[], object]
"""Returns when something is done."""


def no_wait() -> None:
    """Return at once."""


@dataclass(frozen=True)
class UpdateResult:
    """The loss of one update and the new priorities of its rows."""

    loss: float
    priorities: NDArray[np.float32]  # [B], the size of each row's error


class Agent(abc.ABC):
    """An encoder and heads that always take latents.

    Before the freeze the encoder runs in front of the heads. After `freeze_encoder` the outputs of the frozen part come
    from the batch or, if the replay still holds frames, from one pass in each update. Every agent has one update for
    both phases: it asks for the `_inputs` of observations and then for their `_latents`.

    Attributes:
        encoder: the online encoder.
        acting_encoder: the encoder that `explore` reads; a copy after `act_beside_updates`.
        frozen: whether the frozen layers have stopped training.
        reads_latents: whether observations are latents `[N, L]` and not frames `[C, h, w]`. `freeze_encoder` sets it.
            It is never guessed from an array.
        updates: the number of updates so far.
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
        """Whether an update reads the positives of a batch (CURL)."""
        return False

    # --- acting and learning -------------------------------------------------------------------------------

    def act_beside_updates(self) -> None:
        """Allow `explore` and `prepare` to run in one thread while `update` runs in another.

        From now on they read nothing that an update writes. `refresh` copies what acting needs.
        """
        self.acting_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def refresh(self, *, new_noise: bool = True) -> None:
        """Copy the current networks for acting and, with `new_noise`, draw new noise. Call it between two updates."""
        if self._kind is Inputs.LATENTS:
            self.acting_encoder = self.encoder  # it does not train any more
        elif self.acting_encoder is not self.encoder:
            copy_parameters(self.acting_encoder, self.encoder)

    @abc.abstractmethod
    def explore(self, observation: NDArray[Any], timestep: int) -> Action:
        """Return the training action for one observation, `[C, h, w]` or `[N, L]`.

        `timestep` is the number of agent steps before this one. Noise and networks are those of the last `refresh`, so
        this draws no random numbers.
        """

    def act(self, observation: NDArray[Any], timestep: int = 0) -> Action:
        """Call `refresh`, then `explore`."""
        self.refresh()
        return self.explore(observation, timestep)

    @abc.abstractmethod
    def greedy(self, observation: NDArray[Any]) -> Action:
        """Return the action for one observation, `[C, h, w]` or `[N, L]`, without exploration. Evaluations use it."""

    @abc.abstractmethod
    def new_actor(self, rng: np.random.Generator) -> Actor[Any]:
        """Return a copy of the networks that acts in another thread. `rng` draws its exploration."""

    def prepare(self, batch: Batch) -> Any:
        """Compute the part of an update that does not depend on the trained networks. It draws no random numbers."""
        return None

    @abc.abstractmethod
    def update(self, batch: Batch, prepared: Any = None, refreshed: Wait = no_wait) -> UpdateResult:
        """Learn from one batch.

        `prepared` is the result of `prepare` for this batch, from after the last `refresh` or the one before it.
        `refreshed` waits for a `refresh` that another thread runs meanwhile. Call it before reading what `refresh`
        writes or writing what it reads.
        """

    @abc.abstractmethod
    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the heads' outputs `[B, M]` for outputs of the frozen part `[B, N, L]`, without noise or gradient."""

    # --- the layers of the heads ---------------------------------------------------------------------------

    def head_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and biases of the layers in `head_outputs`, by their names in `tensors`."""
        return {}

    def head_outputs(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs `[B, neurons]` of the heads' layers for latents `[B, N, L]`, by the name of the layer.

        Those of a hidden layer are after its ReLU. Noise is left out. `analyze` compares them. An agent without this
        method has only the layers of its encoder compared.
        """
        return {}

    def head_weights(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of `head_tensors` as arrays."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.head_tensors().items()}

    @torch.no_grad()
    def take_head(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy what `head_weights` returned."""
        for name, tensor in self.head_tensors().items():
            tensor.copy_(torch.from_numpy(arrays[name]))

    # --- from observations to latents ----------------------------------------------------------------------

    def encode(self, observations: NDArray[np.uint8]) -> torch.Tensor:
        """Return the frozen part's outputs `[B, N, L]` for frame stacks `[B, C, h, w]`, without gradient."""
        with torch.no_grad():
            frames = self._tensor(observations)
            if self.encoder.spec.whole:
                latents: torch.Tensor = self.encoder(frames)
                return latents
            return self.encoder.frozen(frames)[:, None]

    @property
    def _kind(self) -> Inputs:
        return input_of(self.encoder, reads_latents=self.frozen)

    def _inputs(self, observations: Observations) -> Iterable[torch.Tensor]:
        """Return the inputs of the trained part, slice by slice.

        Before the freeze these are frames, each slice valid until the next one. After it they are the outputs of the
        frozen part in one piece, computed or copied here. The result can be iterated more than once.
        """
        if self.frozen:
            return [_joined([self._frozen_part(piece) for piece in observations.slices()])]
        return _Again(lambda: map(self._tensor, observations.slices()))

    def _read(self, observations: Observations) -> Iterator[torch.Tensor]:
        """Return `_inputs` in the form that the first layer reads, copied out of the replay.

        Another thread can read the replay while an update uses them.
        """
        for piece in self._inputs(observations):
            yield piece if self.frozen else self.encoder.pixels(piece)

    def _frozen_part(self, observations: NDArray[Any]) -> torch.Tensor:
        """Return the outputs of the frozen part `[b, N, L]`, in memory of their own."""
        return self._tensor(observations).clone() if self.reads_latents else self.encode(observations)

    def _latents(
        self,
        inputs: Iterable[torch.Tensor],
        *networks: tuple[Encoder, int],
        trunk_gradient: bool = True,
        read: bool = False,
    ) -> list[torch.Tensor]:
        """Return latents `[B, L]` for the head of each (encoder, network).

        Each slice of `inputs` is read once and passes the trunk of each encoder once. The trunk is tied: only the
        gradient of network 0 reaches it, and none without `trunk_gradient`. `inputs` come from `_read` if `read` is
        true, otherwise from `_inputs`.
        """
        kind, pieces = self._kind, []
        if kind is Inputs.LATENTS:  # there is nothing to compute
            latents = _joined([*inputs])
            return [latents[:, network] for _, network in networks]
        for piece in inputs:
            with torch.set_grad_enabled(trunk_gradient and torch.is_grad_enabled()):
                piece = self.encoder.pixels(piece) if kind is Inputs.FRAMES and not read else piece
                maps = {encoder: maps_of(kind, encoder, piece) for encoder in dict(networks)}
            pieces.append([latents_of_maps(kind, encoder, maps[encoder], network) for encoder, network in networks])
        # Only the narrow latents are joined: the maps of a minibatch of sac-ae at 84x84 take 20 MB.
        return [_joined(latents) for latents in zip(*pieces, strict=True)]

    def latents_of(self, observations: Observations, encoder: Encoder, network: int = 0) -> torch.Tensor:
        """Return latents `[B, L]` of observations for the head of one network, with a graph to the trained layers."""
        (latents,) = self._latents(self._inputs(observations), (encoder, network))
        return latents

    def _observe(self, observation: NDArray[Any], encoder: Encoder, network: int = 0) -> torch.Tensor:
        """Return the latent `[1, L]` of one observation for the head of one network."""
        pieces = observation[None]
        inputs = self._frozen_part(pieces) if self.frozen else self._tensor(pieces)
        (latents,) = self._latents([inputs], (encoder, network))
        return latents

    def _latents_behind_the_cut(self, latents: torch.Tensor, network: int = 0) -> torch.Tensor:
        """Return latents `[B, L]` for the head of one network from outputs of the frozen part `[B, N, L]`."""
        kind = input_of(self.encoder, reads_latents=True)
        return latents_of_maps(kind, self.encoder, maps_of(kind, self.encoder, latents), network)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    # --- the freeze ----------------------------------------------------------------------------------------

    def encoder_weights(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the encoder's weights and biases, by their names in its state."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.encoder.state_dict().items()}

    @torch.no_grad()
    def take_encoder(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the encoder from the state `arrays` of another agent, into the target too (Section 5.4).

        Raises StateError where an array of the encoder is missing or has another shape or dtype.
        """
        for name, tensor in self.tensors():
            source = name.removeprefix("target_")
            if source in arrays:
                array = arrays[source]
                if array.shape != tensor.shape or array.dtype != np.float32:
                    raise StateError(f"{source} is {array.dtype} {list(array.shape)}, not float32 {list(tensor.shape)}")
                tensor.copy_(torch.from_numpy(array))
            elif source.startswith("encoder."):
                raise StateError(f"{source} is missing")

    @abc.abstractmethod
    def freeze_encoder(self, *, reads_latents: bool) -> None:
        """Freeze the encoder up to its cut, tie the target encoder to it, and drop gradients and optimizer state.

        From now on observations are latents if `reads_latents` is true, and frames otherwise.
        """

    # --- state ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and the tensor of everything that a checkpoint keeps."""

    def state(self) -> State:
        """Return `tensors` as arrays, the state of the generator and the number of updates.

        On the CPU the arrays share the memory of the tensors, so they are valid until the next update.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors()}
        return State({"updates": self.updates}, {**arrays, GENERATOR: self.generator.get_state().numpy()})

    def restore(self, state: State) -> None:
        """Set the agent to what `state` returned, on this or another device.

        Raises StateError where the state does not fit, for example that of a frozen agent when this one is not frozen.
        """
        tensors, arrays = dict(self.tensors()), state.arrays
        wanted = {name: ("float32", *tensor.shape) for name, tensor in tensors.items()}
        found = {name: (array.dtype.name, *array.shape) for name, array in arrays.items()}
        # The state of a random stream has another size on another kind of device.
        wanted[GENERATOR] = found.get(GENERATOR, ()) if found.get(GENERATOR) in _GENERATOR_STATES else ("uint8",)
        updates = state.values.get("updates")
        if found != wanted or type(updates) is not int or updates < 0:
            differing = {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)} or {"updates"}
            raise StateError(f"the state is of another agent: {', '.join(sorted(differing)[:3])} differ")
        try:
            self._restore_generator(arrays[GENERATOR])
        except RuntimeError as error:
            raise StateError(f"{GENERATOR} is not the state of a random stream: {error}") from error
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name]))
        self.updates = updates

    def _restore_generator(self, state: NDArray[np.uint8]) -> None:
        """Continue the random stream. On another kind of device begin one that follows from it."""
        if state.shape == self.generator.get_state().shape:
            self.generator.set_state(torch.from_numpy(state))
        else:
            self.generator.manual_seed(int.from_bytes(hashlib.sha256(state.tobytes()).digest()[:7], "little"))


def tie(target: nn.Module, online: nn.Module, names: Iterable[str]) -> None:
    """Let `target` share the parameters `names` of `online`."""
    for name in names:
        module, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(module), leaf, online.get_parameter(name))


class _Again:
    """An iterable that calls `begin` for each iteration."""

    def __init__(self, begin: Callable[[], Iterator[torch.Tensor]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self._begin()


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join the slices of a minibatch. Most often there is one."""
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces))
