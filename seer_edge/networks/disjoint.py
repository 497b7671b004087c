"""Consecutive convolutions whose windows do not overlap, computed as matrix products without a copy between them.

Every pixel is in at most one window of each layer. So the rows of the first product may have any order. Here the
windows of the last layer come one after the other, and inside each of them the windows of the layer below, and so on.
Each layer then reads its windows as a view of the product below (decision 17). Pixels that reach no output of the last
layer are left out.
"""

from collections.abc import Sequence
from typing import Any

import torch

from seer_edge.networks.script import scripted
from seer_edge.networks.spec import Conv, Layer


def is_disjoint(layer: Layer) -> bool:
    """Whether `layer` is a convolution whose windows neither overlap nor need padding."""
    return isinstance(layer, Conv) and layer.kernel == layer.stride and layer.padding == 0


def window_order(maps: torch.Tensor, kernels: Sequence[int]) -> torch.Tensor:
    """Return a view of `maps` `[B, channels, H, W]`, of any dtype, in the order of windows.

    `kernels` are the sides of the windows, bottom layer first. The axes are B, the rows and the columns of the last
    layer's outputs, row and column inside each window from the last layer to the second, and channel, row and column
    inside a window of the first layer.
    """
    sides, depth = list(reversed(kernels)), len(kernels)
    for axis in (2, 3 + depth):
        whole = maps.shape[axis]
        for kernel in kernels:
            whole //= kernel
        used = whole * torch.Size(sides).numel()
        maps = maps.narrow(axis, 0, used).unflatten(axis, (whole, *sides))  # type: ignore[no-untyped-call]
    inner = [axis for level in range(3, 2 + depth) for axis in (level, level + 1 + depth)]
    return maps.permute(0, 2, 3 + depth, *inner, 1, 2 + depth, 3 + 2 * depth)


def apply_disjoint(
    windows: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], relus: Sequence[bool]
) -> torch.Tensor:
    """Apply disjoint convolutions, bottom first. Return the rows `[B * H * W, filters]` of the last one.

    `windows` are maps in `window_order`, contiguous and of any shape. `weights` are `[filters, channels, k, k]`.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (windows, *weights, *biases)):
        rows: torch.Tensor = _Disjoint.apply(windows, list(relus), *weights, *biases)  # type: ignore[no-untyped-call]
        return rows
    return _forward(windows, _matrices(list(weights)), list(biases), list(relus))[-1]


class _Disjoint(torch.autograd.Function):
    """`apply_disjoint` with its gradients, written by hand."""

    @staticmethod
    def forward(ctx: Any, windows: torch.Tensor, relus: list[bool], *parameters: torch.Tensor) -> torch.Tensor:
        count = len(relus)
        matrices = _matrices(list(parameters[:count]))
        outputs = _forward(windows, matrices, list(parameters[count:]), relus)
        ctx.relus, ctx.sides = relus, [weight.shape[2] for weight in parameters[:count]]
        ctx.save_for_backward(windows, *matrices, *outputs)
        return outputs[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        count, (windows, *saved) = len(ctx.relus), ctx.saved_tensors
        reads_slope = ctx.needs_input_grad[0]
        gradients = _backward(slopes, windows, saved[:count], saved[count:], ctx.relus, ctx.sides, reads_slope)
        return gradients[-1] if reads_slope else None, None, *gradients[: 2 * count]


@scripted
def _matrices(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the weights as matrices `[filters, window]`. Only the first layer's windows have their channels first."""
    matrices = [weights[0].flatten(1)]
    for weight in weights[1:]:
        matrices.append(weight.permute(0, 2, 3, 1).flatten(1))
    return matrices


@scripted
def _forward(
    windows: torch.Tensor, matrices: list[torch.Tensor], biases: list[torch.Tensor], relus: list[bool]
) -> list[torch.Tensor]:
    """Return the outputs of every layer, `[windows, filters]`."""
    outputs: list[torch.Tensor] = []
    rows = windows
    for layer in range(len(matrices)):
        rows = torch.mm(rows.view(-1, matrices[layer].size(1)), matrices[layer].t()).add_(biases[layer])
        if relus[layer]:
            rows.relu_()
        outputs.append(rows)
    return outputs


@scripted
def _backward(
    slopes: torch.Tensor,
    windows: torch.Tensor,
    matrices: list[torch.Tensor],
    outputs: list[torch.Tensor],
    relus: list[bool],
    sides: list[int],
    reads_slope: bool,
) -> list[torch.Tensor]:
    """Return the gradients of all weights, of all biases and, if `reads_slope`, of the windows."""
    weights: list[torch.Tensor] = []
    biases: list[torch.Tensor] = []
    for above in range(len(matrices)):
        layer = len(matrices) - 1 - above
        matrix, side = matrices[layer], sides[layer]
        if relus[layer]:
            slopes = torch.ops.aten.threshold_backward(slopes, outputs[layer], 0)
        below = windows if layer == 0 else outputs[layer - 1]
        gradient = torch.mm(slopes.t(), below.view(-1, matrix.size(1)))
        if layer == 0:
            gradient = gradient.view(matrix.size(0), -1, side, side)
        else:
            gradient = gradient.view(matrix.size(0), side, side, -1).permute(0, 3, 1, 2).contiguous()
        weights.insert(0, gradient)
        biases.insert(0, slopes.sum([0]))
        if layer > 0 or reads_slope:
            slopes = torch.mm(slopes, matrix).view_as(below)
    return weights + biases + [slopes]
