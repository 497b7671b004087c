"""Adam (Kingma & Ba 2015) on torch's fused kernel.

`torch.optim.Adam` computes the same, but building one imports torch's compiler stack: 70 MB of RSS.
"""

from collections.abc import Iterable, Mapping

import torch


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
        # One count for all: they step together, and counting each apart took 8 % of the kernel's own time.
        self._count = torch.zeros((), dtype=torch.float32, device=next(iter(self.parameters.values())).device)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def clip(self, most: float) -> None:
        """Scale the gradients so that their joint L2 norm is at most `most`."""
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not float(norm) <= most:  # a norm that is NaN makes all of them NaN
            torch._foreach_mul_(gradients, most / (norm + 1e-6))

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients; every parameter must have one."""
        parameters: list[torch.Tensor] = list(self.parameters.values())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if len(gradients) != len(parameters):
            missing = [name for name, parameter in self.parameters.items() if parameter.grad is None]
            raise ValueError(f"no gradient for {', '.join(missing)}")
        self._count += 1
        torch._fused_adam_(
            parameters,
            gradients,
            list(self._first.values()),
            list(self._second.values()),
            [],
            [self._count] * len(parameters),
            lr=self._learning_rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=0.0,
            eps=self._epsilon,
            amsgrad=False,
            maximize=False,
        )

    def drop(self, names: Iterable[str]) -> None:
        """Forget the parameters `names`, their gradients and their moments; the others keep theirs."""
        for name in names:
            self.parameters.pop(name).grad = None
            del self._first[name], self._second[name]

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts by name."""
        kinds = {"first": self._first, "second": self._second, "steps": dict.fromkeys(self.parameters, self._count)}
        return {f"{kind}.{name}": tensor for kind, state in kinds.items() for name, tensor in state.items()}
