"""Adam (Kingma & Ba 2015) on torch's fused kernel.

`torch.optim.Adam` computes the same numbers, but building one imports torch's compiler stack: 70 MB of RSS.
"""

from collections.abc import Iterable, Mapping

import torch

from seer_edge.networks.script import scripted


class Adam:
    """One optimizer over named parameters."""

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = dict(parameters)
        self._learning_rate = learning_rate
        self._betas = betas
        self._epsilon = epsilon
        self._first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        # One step count for all parameters: they step together, and separate counts cost 8 % of the kernel's time.
        self._count = torch.zeros((), dtype=torch.float32, device=next(iter(self.parameters.values())).device)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def clip(self, most: float) -> None:
        """Scale the gradients so that their joint L2 norm is at most `most`."""
        _clip([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None], most)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients. Raises ValueError where a parameter has none."""
        parameters: list[torch.Tensor] = list(self.parameters.values())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if len(gradients) != len(parameters):
            missing = [name for name, parameter in self.parameters.items() if parameter.grad is None]
            raise ValueError(f"no gradient for {', '.join(missing)}")
        moments = list(self._first.values()), list(self._second.values())
        _step(parameters, gradients, *moments, self._count, self._learning_rate, *self._betas, self._epsilon)

    def drop(self, names: Iterable[str]) -> None:
        """Remove the parameters `names` with their gradients and moments. The others keep theirs."""
        for name in names:
            self.parameters.pop(name).grad = None
            del self._first[name], self._second[name]

    def state(self) -> dict[str, torch.Tensor]:
        """Return moments and step counts by name."""
        kinds = {"first": self._first, "second": self._second, "steps": dict.fromkeys(self.parameters, self._count)}
        return {f"{kind}.{name}": tensor for kind, state in kinds.items() for name, tensor in state.items()}


@scripted
def _clip(gradients: list[torch.Tensor], most: float) -> None:
    norm = torch.norm(torch.stack(torch._foreach_norm(gradients)))
    if not bool(norm <= most):  # a NaN norm makes all gradients NaN
        torch._foreach_mul_(gradients, most / (norm + 1e-6))


@scripted
def _step(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    count: torch.Tensor,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    count += 1
    torch._fused_adam_(
        parameters,
        gradients,
        first,
        second,
        [],
        [count] * len(parameters),
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )
