"""The losses of SAC (Haarnoja et al. 2018, with a learned temperature) and of CURL (Srinivas et al. 2020).

Pure functions of B transitions and two Q functions. They detach nothing: the caller passes constants as constants.
"""

import torch


def critic_targets(
    returns: torch.Tensor,
    discounts: torch.Tensor,
    next_qs: torch.Tensor,
    next_log_probabilities: torch.Tensor,
    temperature: torch.Tensor,
) -> torch.Tensor:
    """Return soft targets `[B]`: return + discount (min Q - temperature log pi) at the row to bootstrap from.

    `next_qs` is `[2, B]`, `temperature` is a scalar, the others are `[B]` (Section 3 of the paper, L_Q).
    """
    return returns + discounts * (next_qs.amin(dim=0) - temperature * next_log_probabilities)


def critic_loss(qs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted mean of both Qs' squared errors, and priorities `[B]`, the mean of both Qs' |error|.

    The two squared errors of a row are added. `qs` is `[2, B]`, `targets` and importance `weights` are `[B]`.
    """
    errors = qs - targets
    return (weights * errors.square().sum(dim=0)).mean(), errors.detach().abs().mean(dim=0)


def actor_loss(log_probabilities: torch.Tensor, qs: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Return the mean of temperature log pi - min Q. `log_probabilities` is `[B]`, `qs` is `[2, B]` (L_pi)."""
    return (temperature * log_probabilities - qs.amin(dim=0)).mean()


def temperature_loss(
    log_temperature: torch.Tensor, log_probabilities: torch.Tensor, target_entropy: float
) -> torch.Tensor:
    """Return the temperature times the mean amount by which the entropy -log pi `[B]` exceeds its target."""
    return -(log_temperature.exp() * (log_probabilities + target_entropy)).mean()


def contrastive_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return InfoNCE: the mean cross-entropy of `logits` `[B, B]`. An anchor's positive is on the diagonal."""
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()
