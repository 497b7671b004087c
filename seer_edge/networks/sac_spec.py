"""Sizes of the heads of CURL + SAC, for the planner and the FLOP counts. Imports no torch."""

from dataclasses import dataclass

CRITIC, ACTOR = 0, 1
"""Indices of the encoder's networks along axis N of its latents."""


@dataclass(frozen=True)
class SacHeadSpec:
    """Sizes of an actor, two Q functions and CURL's bilinear form over latents (Srinivas et al. 2020).

    The actor and each Q are perceptrons with two hidden layers. The actor has a layer norm in front of it, and the Qs
    share another. Multiply-adds are those of one forward pass for one observation.
    """

    features: int  # elements of a latent
    hidden: int  # units of each hidden layer
    actions: int  # controls of an action

    def _perceptron(self, inputs: int, outputs: int) -> tuple[int, int]:
        """Return the number of weights, each used once in a pass, and of biases."""
        return inputs * self.hidden + self.hidden**2 + self.hidden * outputs, 2 * self.hidden + outputs

    @property
    def _actor(self) -> tuple[int, int]:
        return self._perceptron(self.features, 2 * self.actions)

    @property
    def _q(self) -> tuple[int, int]:
        return self._perceptron(self.features + self.actions, 1)

    @property
    def norm_parameters(self) -> int:
        """Weights and biases of one layer norm."""
        return 2 * self.features

    @property
    def actor_parameters(self) -> int:
        """Weights and biases of the actor: layer norm and perceptron."""
        return self.norm_parameters + sum(self._actor)

    @property
    def target_parameters(self) -> int:
        """Weights and biases of the target critic: layer norm and both Qs."""
        return self.norm_parameters + 2 * sum(self._q)

    @property
    def contrastive_parameters(self) -> int:
        """Weights of W in the bilinear form, which only the contrastive loss trains."""
        return self.features**2

    @property
    def parameters(self) -> int:
        """Trained parameters without the contrastive loss: actor, critic (as large as its target), temperature."""
        return self.actor_parameters + self.target_parameters + 1

    @property
    def actor_multiply_adds(self) -> int:
        """Multiply-adds of the policy's mean and standard deviation."""
        return self._actor[0]

    @property
    def q_multiply_adds(self) -> int:
        """Multiply-adds of one of the two Qs."""
        return self._q[0]
