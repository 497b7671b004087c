"""The losses of SAC (Haarnoja et al. 2018, with a learned temperature) and of CURL (Srinivas et al. 2020).

Pure functions; B transitions, two Q functions. Nothing is detached here: what is a constant, the caller passes as one.
"""

import torch


def critic_targets(
    returns: torch.Tensor,
    discounts: torch.Tensor,
    next_qs: torch.Tensor,
    next_log_probabilities: torch.Tensor,
    temperature: torch.Tensor,
) -> torch.Tensor:
    """Soft targets `[B]`: return + discount (min Q - temperature log pi) at the row that is bootstrapped from.

    `next_qs` `[2, B]`, `temperature` a scalar, all else `[B]` (Section 3 of the paper, L_Q).
    """
    return returns + discounts * (next_qs.amin(dim=0) - temperature * next_log_probabilities)


def critic_loss(qs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of both Qs' squared errors, its weighted mean over rows; and priorities `[B]`, the mean |error|.

    `qs` `[2, B]`; `targets` and importance `weights` `[B]`.
    """
    errors = qs - targets
    return (weights * errors.square().sum(dim=0)).mean(), errors.detach().abs().mean(dim=0)


def actor_loss(log_probabilities: torch.Tensor, qs: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """The mean of temperature log pi - min Q, of `log_probabilities` `[B]` and `qs` `[2, B]` (L_pi)."""
    return (temperature * log_probabilities - qs.amin(dim=0)).mean()


def temperature_loss(
    log_temperature: torch.Tensor, log_probabilities: torch.Tensor, target_entropy: float
) -> torch.Tensor:
    """The temperature times how much the entropy -log pi, `[B]`, is above its target on the mean."""
    return -(log_temperature.exp() * (log_probabilities + target_entropy)).mean()


def contrastive_loss(logits: torch.Tensor) -> torch.Tensor:
    """InfoNCE: the mean cross-entropy of `logits` `[B, B]`, where an anchor's positive is on the diagonal."""
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()
