"""CURL (Srinivas et al. 2020) on Soft Actor-Critic (Haarnoja et al. 2018), from pixels and from frozen latents."""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_edge.agents.actor import Actor
from seer_edge.agents.adam import Adam
from seer_edge.agents.agent import Agent, UpdateResult, Wait, no_wait, tie
from seer_edge.agents.inputs import Inputs, copy_parameters
from seer_edge.agents.sac_losses import actor_loss, contrastive_loss, critic_loss, critic_targets, temperature_loss
from seer_edge.config.presets import SacSettings
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.sac_heads import ActorHead, Bilinear, CriticHead, tanh_gaussian
from seer_edge.networks.sac_spec import ACTOR, CRITIC, SacHeadSpec
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.replay.replay import Batch, Observations

TRAINED = {
    "critic": ("encoder.convs.", f"encoder.fcs.{CRITIC}.", "critic."),
    "actor": (f"encoder.fcs.{ACTOR}.", "actor."),
    "contrastive": ("encoder.convs.", f"encoder.fcs.{CRITIC}.", "critic.norm.", "bilinear."),
}
"""Prefixes of the parameters that each loss trains. The actor's loss does not train the convolutions: they are tied."""


class CurlSacAgent(Agent):
    """An encoder of two networks, actor and critic heads, their targets, a temperature and CURL's bilinear form.

    One update takes these steps:

    1. The critic, with the trunk and the critic's fc.
    2. Every `target_update_steps` updates, the moving averages of the targets.
    3. Every `actor_update_steps` updates, the actor with its fc, and the temperature.
    4. While a layer of the encoder trains, the contrastive loss of anchors (the observations) and positives (other
       crops of them, encoded by the target).

    CURL has step 3 before step 2. The result is the same, because neither step reads what the other changes. The
    released code steps the encoder twice by the same contrastive gradient, with two optimizers. Here one optimizer
    takes one step over trunk, the critic's fc, its layer norm and W.

    Raises ValueError for an encoder without latents of the heads' size for two networks.
    """

    def __init__(
        self,
        encoder_spec: EncoderSpec,
        head_spec: SacHeadSpec,
        settings: SacSettings,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if (encoder_spec.networks, encoder_spec.features) != (2, head_spec.features):
            raise ValueError(
                f"CURL + SAC takes latents of 2 networks and {head_spec.features} features, "
                f"not of {encoder_spec.networks} and {encoder_spec.features}"
            )
        init = torch.Generator().manual_seed(seed)
        super().__init__(Encoder(encoder_spec, init, orthogonal=True), seed=seed, device=device)
        self.encoder_spec = encoder_spec
        self.head_spec = head_spec
        self.settings = settings
        self.target_entropy = -float(head_spec.actions)
        self.actor = self.acting = ActorHead(head_spec, settings.log_std_range, init).to(self.device)
        self.critic = CriticHead(head_spec, init)
        self.target_encoder = Encoder(dataclasses.replace(encoder_spec, networks=1), torch.Generator())
        self.target_encoder.load_state_dict(self.encoder.state_dict(), strict=False)  # it has no actor fc
        self.target_critic = copy.deepcopy(self.critic)
        self.networks = nn.ModuleDict(
            {
                "encoder": self.encoder,
                "actor": self.actor,
                "critic": self.critic,
                "target_encoder": self.target_encoder.requires_grad_(False),
                "target_critic": self.target_critic.requires_grad_(False),
            }
        )
        if settings.contrastive:
            self.networks["bilinear"] = Bilinear(head_spec.features, init)
        self.networks.to(self.device)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(settings.initial_temperature), dtype=torch.float32, device=self.device)
        )
        self._noise = self.log_temperature.detach().new_zeros(1, head_spec.actions)  # of the next action
        self.optimizers = {
            loss: Adam(self._trained_by(loss), learning_rate=settings.learning_rate)
            for loss in TRAINED
            if loss != "contrastive" or settings.contrastive
        }
        self.optimizers["temperature"] = Adam(
            {"log_temperature": self.log_temperature},
            learning_rate=settings.alpha_learning_rate,
            betas=(settings.alpha_beta1, 0.999),
        )

    def _trained_by(self, loss: str) -> dict[str, nn.Parameter]:
        named = self.networks.named_parameters()
        return {name: parameter for name, parameter in named if name.startswith(TRAINED[loss])}

    @property
    def contrasts(self) -> bool:
        """Whether an update includes the contrastive loss."""
        return "contrastive" in self.optimizers

    # --- acting --------------------------------------------------------------------------------------------

    def act_beside_updates(self) -> None:
        """See `Agent`."""
        super().act_beside_updates()
        self.acting = copy.deepcopy(self.actor).requires_grad_(False)

    @torch.no_grad()
    def refresh(self, *, new_noise: bool = True) -> None:
        """Copy the current actor for acting and, with `new_noise`, draw the noise of one action."""
        super().refresh()
        if self.acting is not self.actor:
            copy_parameters(self.acting, self.actor)
        if new_noise:
            self._noise.normal_(generator=self.generator)

    @torch.no_grad()
    def explore(self, observation: NDArray[Any], timestep: int) -> NDArray[np.float32]:
        """Return an action `[A]` drawn from the policy for one observation."""
        mean, log_std = self.acting(self._observe(observation, self.acting_encoder, ACTOR))
        action: NDArray[np.float32] = tanh_gaussian(mean, log_std, self._noise)[0][0].cpu().numpy()
        return action

    @torch.no_grad()
    def greedy(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean action `[A]` for one observation: tanh of the Gaussian's mean."""
        action: NDArray[np.float32] = (
            torch.tanh(self.actor(self._observe(observation, self.encoder, ACTOR))[0])[0].cpu().numpy()
        )
        return action

    def new_actor(self, rng: np.random.Generator) -> "SacActor":
        """See `Agent`."""
        return SacActor(self, rng)

    @torch.no_grad()
    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return mean actions and their two Q-values `[B, A + 2]` for outputs of the frozen part `[B, N, L]`."""
        of_critic, of_actor = (self._latents_behind_the_cut(latents, network) for network in (CRITIC, ACTOR))
        actions = torch.tanh(self.actor(of_actor)[0])
        return torch.cat([actions, self.critic(of_critic, actions).T], dim=1)

    def head_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and biases of the actor, of the critic's layer norm and of its first Q (see `Agent`)."""
        compared = ("actor.", "critic.norm.", "critic.qs.0.")
        return {name: tensor for name, tensor in self.networks.named_parameters() if name.startswith(compared)}

    @torch.no_grad()
    def head_outputs(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs of the layers of the actor, and of the first Q for the actor's mean actions."""
        of_actor = [*self.actor.policy.each_layer(self.actor.norm(latents[:, ACTOR]))]
        actions = torch.tanh(of_actor[-1].chunk(2, dim=1)[0])
        inputs = torch.cat([self.critic.norm(latents[:, CRITIC]), actions], dim=1)
        of_critic = self.critic.first.each_layer(inputs)
        layers = ("hidden 1", "hidden 2", "output")
        found = {f"critic {layer}": outputs for layer, outputs in zip(layers, of_critic, strict=True)}
        return found | {f"actor {layer}": outputs for layer, outputs in zip(layers, of_actor, strict=True)}

    def _draw(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions `[B, A]` from the policy at the actor's latents `[B, L]`, with log-probabilities `[B]`."""
        mean, log_std = self.actor(latents)
        noise = torch.empty_like(mean).normal_(generator=self.generator)
        return tanh_gaussian(mean, log_std, noise)

    # --- learning ------------------------------------------------------------------------------------------

    def update(self, batch: Batch, prepared: None = None, refreshed: Wait = no_wait) -> UpdateResult:
        """Make one update. Return the critic's loss and, as priorities, the mean |TD error| of the two Qs."""
        settings = self.settings
        inputs = self._inputs(batch.observations)
        refreshed()
        self.updates += 1
        result = self._update_critic(batch, inputs)
        if self.updates % settings.target_update_steps == 0:
            self.update_target()
        updates_actor = self.updates % settings.actor_update_steps == 0
        if updates_actor or self.contrasts:
            # The critic's step has changed the trunk and the actor's step will not, so one pass serves both.
            networks = (self.encoder, CRITIC), (self.encoder, ACTOR)
            wanted = networks if updates_actor else networks[:1]
            of_critic, *of_actor = self._latents(inputs, *wanted, trunk_gradient=self.contrasts)
            if updates_actor:
                self._update_actor(of_critic.detach(), *of_actor)
            if self.contrasts:
                if batch.positives is None:
                    raise ValueError("a contrastive loss needs a batch with positives")
                self._update_contrast(of_critic, batch.positives)
        return result

    def _step(self, name: str, loss: torch.Tensor) -> None:
        """Take one step of the optimizer `name`. Only the gradients of its parameters are computed."""
        optimizer = self.optimizers[name]
        torch.autograd.backward(loss, inputs=list(optimizer.parameters.values()))
        optimizer.step()
        optimizer.zero_grad()

    def _update_critic(self, batch: Batch, inputs: Iterable[torch.Tensor]) -> UpdateResult:
        targets = self._targets(batch)
        (latents,) = self._latents(inputs, (self.encoder, CRITIC))
        qs = self.critic(latents, self._tensor(batch.actions))
        loss, errors = critic_loss(qs, targets, self._tensor(batch.weights))
        self._step("critic", loss)
        return UpdateResult(float(loss.detach()), errors.cpu().numpy())

    @torch.no_grad()
    def _targets(self, batch: Batch) -> torch.Tensor:
        """Return targets `[B]`: the online actor draws the next action, the target critic values it."""
        inputs = self._inputs(batch.next_observations)
        of_actor, of_target = self._latents(inputs, (self.encoder, ACTOR), (self.target_encoder, CRITIC))
        actions, log_probabilities = self._draw(of_actor)
        next_qs = self.target_critic(of_target, actions)
        returns, discounts = self._tensor(batch.returns), self._tensor(batch.discounts)
        return critic_targets(returns, discounts, next_qs, log_probabilities, self.log_temperature.exp())

    def _update_actor(self, of_critic: torch.Tensor, of_actor: torch.Tensor) -> None:
        """Step the actor and the temperature. The critic's latents `[B, L]` are constants, the actor's are not."""
        actions, log_probabilities = self._draw(of_actor)
        qs = self.critic(of_critic, actions)
        self._step("actor", actor_loss(log_probabilities, qs, self.log_temperature.detach().exp()))
        constants = log_probabilities.detach()
        self._step("temperature", temperature_loss(self.log_temperature, constants, self.target_entropy))

    def _update_contrast(self, anchors: torch.Tensor, other_view: Observations) -> None:
        """Step the contrastive loss of `anchors` `[B, L]`, the critic's latents, and the target's of another view."""
        with torch.no_grad():
            (positives,) = self._latents(self._inputs(other_view), (self.target_encoder, CRITIC))
            positives = self.target_critic.norm(positives)
        logits = self.networks["bilinear"](self.critic.norm(anchors), positives)
        self._step("contrastive", contrastive_loss(logits))

    def update_target(self) -> None:
        """Move the targets towards the online networks."""
        encoder_tau, target_tau = self.settings.encoder_tau, self.settings.target_tau
        _follow(self.target_encoder, self.encoder, encoder_tau)
        # The layer norm belongs to the critic head. As in the released code, it follows with the encoder's tau.
        _follow(self.target_critic.norm, self.critic.norm, encoder_tau)
        _follow(self.target_critic.qs, self.critic.qs, target_tau)

    # --- the freeze ----------------------------------------------------------------------------------------

    def freeze_encoder(self, *, reads_latents: bool) -> None:
        """Freeze the encoder up to its cut (see `Agent`).

        If the whole encoder is frozen, the layer norms of the heads are too, and the contrastive loss ends.
        """
        self.frozen, self.reads_latents = True, reads_latents
        frozen = {f"encoder.{name}" for name in self.encoder.frozen_parameters()}
        tie(self.target_encoder, self.encoder, self.target_encoder.frozen_parameters())
        if self._kind is Inputs.LATENTS:
            self.optimizers.pop("contrastive", None)
            if "bilinear" in self.networks:
                del self.networks["bilinear"]
            norms = dict(self.critic.norm.named_parameters())
            tie(self.target_critic.norm, self.critic.norm, norms)
            frozen |= {f"{head}.norm.{name}" for head in ("actor", "critic") for name in norms}
        for name in frozen:
            self.networks.get_parameter(name).requires_grad_(False)
        for optimizer in self.optimizers.values():
            optimizer.drop(frozen & optimizer.parameters.keys())

    # --- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and the tensor of everything that a checkpoint keeps. Tied tensors come once."""
        yield from self.networks.named_parameters()
        yield "log_temperature", self.log_temperature
        for loss, optimizer in self.optimizers.items():
            yield from ((f"optimizer.{loss}.{name}", tensor) for name, tensor in optimizer.state().items())


class SacActor(Actor[CurlSacAgent]):
    """Draws the noise of each action from its own stream."""

    def __init__(self, agent: CurlSacAgent, rng: np.random.Generator) -> None:
        super().__init__(agent, rng)
        self._head = copy.deepcopy(agent.actor).requires_grad_(False)

    def take(self, agent: CurlSacAgent) -> None:
        """See `Actor`."""
        super().take(agent)
        copy_parameters(self._head, agent.actor)

    @torch.no_grad()
    def explore(self, observation: NDArray[Any], timestep: int) -> NDArray[np.float32]:
        """Return an action `[A]` drawn from the policy."""
        mean, log_std = self._head(self._latent(observation, ACTOR))
        noise = torch.from_numpy(self.rng.standard_normal(mean.shape, np.float32)).to(mean.device)
        action: NDArray[np.float32] = tanh_gaussian(mean, log_std, noise)[0][0].cpu().numpy()
        return action

    @torch.no_grad()
    def greedy(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean action `[A]`."""
        action: NDArray[np.float32] = torch.tanh(self._head(self._latent(observation, ACTOR))[0])[0].cpu().numpy()
        return action


@torch.no_grad()
def _follow(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move `target` by tau (online - target), except for tied parameters."""
    followed = dict(online.named_parameters())
    pairs = [(own, followed[name]) for name, own in target.named_parameters() if own is not followed[name]]
    if pairs:
        owns, onlines = zip(*pairs, strict=True)
        torch._foreach_lerp_(owns, onlines, tau)
