"""CURL + SAC written out slowly: whole minibatches, plain autograd, torch's Adam, without sharing or saving results.

It takes its weights from an agent and then learns by itself, always from frames; frozen layers are those that get no
optimizer. Everything is float64.
"""

import dataclasses

import torch
from torch.nn import functional

from seer_edge.agents.curl_sac import CurlSacAgent

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Frames:
    """One minibatch as frames: observations, another view of them, and next observations, uint8 `[B, C, h, w]`."""

    observations: Tensor
    other_view: Tensor
    next_observations: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    weights: Tensor


class NaiveCurlSac:
    def __init__(self, agent: CurlSacAgent) -> None:
        self.settings = agent.settings
        self.actions = agent.head_spec.actions
        self.strides = [layer.stride for layer in agent.encoder_spec.layers]
        self.low, self.high = agent.settings.log_std_range
        self.generator = torch.Generator()
        self.generator.set_state(agent.generator.get_state())
        self.weights = {name: p.detach().double().clone() for name, p in agent.networks.named_parameters()}
        self.weights["log_temperature"] = agent.log_temperature.detach().double().clone()
        self.updates = 0
        self.frozen: set[str] = set()
        self.whole = False
        online = [name for name in self.weights if not name.startswith("target_")]
        for name in online:
            self.weights[name].requires_grad_()
        trunk = [name for name in online if name.startswith(("encoder.convs.", "encoder.fcs.0."))]
        critic = [name for name in online if name.startswith("critic.")]
        actor = [name for name in online if name.startswith(("actor.", "encoder.fcs.1."))]
        norm = [name for name in critic if ".norm." in name]
        s = self.settings
        self.critic_optimizer = self._adam(trunk + critic, s.learning_rate)
        self.actor_optimizer = self._adam(actor, s.learning_rate)
        self.temperature_optimizer = self._adam(["log_temperature"], s.alpha_learning_rate, (s.alpha_beta1, 0.999))
        self.contrastive_optimizer = self._adam([*trunk, *norm, "bilinear.weight"], s.learning_rate)

    def _adam(self, names: list[str], rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
        return torch.optim.Adam([self.weights[name] for name in names if name in self.weights], lr=rate, betas=betas)

    def freeze(self, names: set[str], *, whole: bool) -> None:
        """Stop training the parameters `names` and their targets."""
        self.frozen, self.whole = names, whole
        for name in names:
            self.weights[name] = self.weights[name].detach().clone()
            if f"target_{name}" in self.weights:
                self.weights[f"target_{name}"] = self.weights[name]
        for optimizer in (self.critic_optimizer, self.actor_optimizer, self.contrastive_optimizer):
            optimizer.zero_grad()

    # --- networks ------------------------------------------------------------------------------------------

    def trunk(self, which: str, frames: Tensor) -> Tensor:
        hidden = frames.double() / 255
        for index, stride in enumerate(self.strides):
            weight, bias = (self.weights[f"{which}.convs.{index}.{kind}"] for kind in ("weight", "bias"))
            hidden = functional.conv2d(hidden, weight, bias, stride).relu()
        return hidden.reshape(len(frames), -1)

    def linear(self, name: str, inputs: Tensor) -> Tensor:
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, which: str, latents: Tensor) -> Tensor:
        weight, bias = self.weights[f"{which}.norm.weight"], self.weights[f"{which}.norm.bias"]
        return functional.layer_norm(latents, latents.shape[1:], weight, bias)

    def perceptron(self, name: str, inputs: Tensor) -> Tensor:
        hidden = self.linear(f"{name}.layers.0", inputs).relu()
        hidden = self.linear(f"{name}.layers.1", hidden).relu()
        return self.linear(f"{name}.layers.2", hidden)

    def critic_latents(self, which: str, frames: Tensor) -> Tensor:
        return self.linear(f"{which}.fcs.0", self.trunk(which, frames))

    def policy(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.linear("encoder.fcs.1", self.trunk("encoder", frames).detach())
        mean, log_std = self.perceptron("actor.policy", self.norm("actor", latents)).chunk(2, dim=1)
        log_std = self.low + 0.5 * (self.high - self.low) * (log_std.tanh() + 1)
        noise = torch.empty(mean.shape).normal_(generator=self.generator).double()
        u = mean + noise * log_std.exp()
        log_gaussian = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        return u.tanh(), (log_gaussian - torch.log(1 - u.tanh() ** 2)).sum(dim=1)

    def qs(self, which: str, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([self.norm(which, latents), actions], dim=1)
        first, second = (self.perceptron(f"{which}.qs.{q}", inputs).squeeze(1) for q in range(2))
        return first, second

    # --- one update, in the order of CURL's code -----------------------------------------------------------

    def update(self, batch: Frames) -> tuple[float, Tensor]:
        """Critic loss and priorities."""
        self.updates += 1
        result = self.update_critic(batch)
        if self.updates % self.settings.actor_update_steps == 0:
            self.update_actor(batch)
        if self.updates % self.settings.target_update_steps == 0:
            self.update_targets()
        if self.settings.contrastive and not self.whole:
            self.update_contrast(batch)
        return result

    def update_critic(self, batch: Frames) -> tuple[float, Tensor]:
        temperature = self.weights["log_temperature"].exp()
        with torch.no_grad():
            actions, log_probabilities = self.policy(batch.next_observations)
            latents = self.critic_latents("target_encoder", batch.next_observations)
            first, second = self.qs("target_critic", latents, actions)
            value = torch.min(first, second) - temperature * log_probabilities
            target = batch.returns.double() + batch.discounts.double() * value
        first, second = self.qs("critic", self.critic_latents("encoder", batch.observations), batch.actions.double())
        squares = (first - target) ** 2 + (second - target) ** 2
        loss = (batch.weights.double() * squares).mean()
        self.step(self.critic_optimizer, loss)
        return float(loss.detach()), ((first - target).abs() + (second - target).abs()).detach() / 2

    def update_actor(self, batch: Frames) -> None:
        temperature = self.weights["log_temperature"].exp()
        actions, log_probabilities = self.policy(batch.observations)
        latents = self.critic_latents("encoder", batch.observations).detach()
        first, second = self.qs("critic", latents, actions)
        loss = (temperature.detach() * log_probabilities - torch.min(first, second)).mean()
        self.step(self.actor_optimizer, loss)
        entropy = -log_probabilities.detach()
        self.step(self.temperature_optimizer, (temperature * (entropy - -self.actions)).mean())

    def update_targets(self) -> None:
        with torch.no_grad():
            for name in [name for name in self.weights if name.startswith("target_")]:
                tau = self.settings.target_tau if ".qs." in name else self.settings.encoder_tau
                online = self.weights[name.removeprefix("target_")]
                self.weights[name] = tau * online + (1 - tau) * self.weights[name]

    def update_contrast(self, batch: Frames) -> None:
        anchors = self.norm("critic", self.critic_latents("encoder", batch.observations))
        with torch.no_grad():
            positives = self.norm("target_critic", self.critic_latents("target_encoder", batch.other_view))
        logits = anchors @ self.weights["bilinear.weight"] @ positives.T
        self.step(self.contrastive_optimizer, functional.cross_entropy(logits, torch.arange(len(logits))))

    def step(self, optimizer: torch.optim.Adam, loss: Tensor) -> None:
        for weight in self.weights.values():
            weight.grad = None
        loss.backward()
        optimizer.step()
