"""The categorical value distribution of C51 (Bellemare et al. 2017)."""

import torch


def project(
    probabilities: torch.Tensor, returns: torch.Tensor, discounts: torch.Tensor, support: torch.Tensor
) -> torch.Tensor:
    """Project the distribution of `returns + discounts * support` back onto `support` (Algorithm 1 there).

    `probabilities` `[B, atoms]`, `returns` and `discounts` `[B]`, `support` `[atoms]`, evenly spaced. Each shifted
    atom is clamped to the support and shared between its two neighbours in proportion to nearness: a triangular
    kernel. Returns `[B, atoms]`.
    """
    spacing = support[1] - support[0]
    shifted = returns[:, None] + discounts[:, None] * support
    shifted = shifted.clamp(float(support[0]), float(support[-1]))
    distance = (shifted[:, None, :] - support[None, :, None]).abs_()
    shares = distance.div_(-spacing).add_(1).clamp_(min=0)  # [B, to, from]
    return torch.bmm(shares, probabilities[:, :, None])[:, :, 0]
