"""The categorical value distribution of C51 (Bellemare et al. 2017)."""

import torch

from seer_edge.networks.script import scripted


@scripted
def project(
    probabilities: torch.Tensor, returns: torch.Tensor, discounts: torch.Tensor, support: torch.Tensor
) -> torch.Tensor:
    """Project the distribution of `returns + discounts * support` back onto `support` (Algorithm 1 there).

    `probabilities` are `[B, atoms]`, `returns` and `discounts` are `[B]`. `support` `[atoms]` is evenly spaced. Each
    shifted atom is clamped to the support and divided between its two neighbours in proportion to nearness. Returns
    `[B, atoms]`.
    """
    low, high, last = float(support[0]), float(support[-1]), len(support) - 1
    shifted = (returns[:, None] + discounts[:, None] * support).clamp_(low, high)
    places = shifted.sub_(low).mul_(last / (high - low)).clamp_(0, last)  # [B, atoms], in units of atoms
    below = places.floor().clamp_(max=last - 1)
    upper = (places - below).mul_(probabilities)
    index = below.long()
    projected = torch.zeros_like(probabilities).scatter_add_(1, index, probabilities - upper)
    return projected.scatter_add_(1, index + 1, upper)
