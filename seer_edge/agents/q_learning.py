"""What all Q-learning agents share: one encoder and one head, a target network for each, and one optimizer."""

import copy
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import nn

from seer_edge.agents.adam import Adam
from seer_edge.agents.agent import Agent, tie
from seer_edge.networks.encoder import Encoder

Head = TypeVar("Head", bound=nn.Module)


class QLearningAgent(Agent, Generic[Head]):
    """An agent with discrete actions. N = 1: the head reads the one latent of each observation.

    Attributes:
        head: the online head.
        target_encoder: the encoder of the target network.
        target_head: the head of the target network.
        optimizer: Adam over `encoder` and `head`.

    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        *,
        target_update_steps: int,
        learning_rate: float,
        adam_epsilon: float,
        seed: int,
        device: str,
    ) -> None:
        """Copy the target network from `encoder` and `head`. `target_update_steps` is in updates."""
        super().__init__(encoder, seed=seed, device=device)
        self.head = head.to(self.device)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)
        online = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
        self.optimizer = Adam(dict(online.named_parameters()), learning_rate=learning_rate, epsilon=adam_epsilon)
        self._target_update_steps = target_update_steps

    def refresh(self, *, new_noise: bool = True) -> None:
        """Copy the current networks for acting, and to the target network if its turn has come."""
        if self.updates and self.updates % self._target_update_steps == 0:
            self.update_target()
        super().refresh(new_noise=new_noise)

    def update_target(self) -> None:
        """Copy the online network to the target network."""
        self.target_encoder.load_state_dict(self.encoder.state_dict())
        self.target_head.load_state_dict(self.head.state_dict())

    def freeze_encoder(self, *, reads_latents: bool) -> None:
        """Freeze the encoder up to its cut (see `Agent`)."""
        frozen = self.encoder.frozen_parameters()
        for parameter in frozen.values():
            parameter.requires_grad_(False)
        tie(self.target_encoder, self.encoder, frozen)
        self.optimizer.drop(f"encoder.{name}" for name in frozen)
        self.frozen, self.reads_latents = True, reads_latents

    def head_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and biases of the head (see `Agent`)."""
        return {"head." + name: parameter for name, parameter in self.head.named_parameters()}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and the tensor of everything that a checkpoint keeps."""
        yield from (("encoder." + name, tensor) for name, tensor in self.encoder.state_dict().items())
        yield from (("head." + name, tensor) for name, tensor in self.head.state_dict().items())
        yield from (("target_encoder." + name, tensor) for name, tensor in self.target_encoder.state_dict().items())
        yield from (("target_head." + name, tensor) for name, tensor in self.target_head.state_dict().items())
        yield from (("optimizer." + name, tensor) for name, tensor in self.optimizer.state().items())
