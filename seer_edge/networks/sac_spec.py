"""The sizes of the heads of CURL + SAC, without torch: the planner and the FLOPs read them."""

from dataclasses import dataclass

CRITIC, ACTOR = 0, 1
"""The networks of the encoder, in the order of its latents."""


@dataclass(frozen=True)
class SacHeadSpec:
    """An actor, two Q functions and CURL's bilinear form over latents of `features` (Srinivas et al. 2020).

    Actor and Qs are perceptrons with two hidden layers of `hidden`, behind a layer norm of the actor's and one that
    the Qs share. Multiply-adds are those of one forward pass for one observation.
    """

    features: int
    hidden: int
    actions: int

    def _perceptron(self, inputs: int, outputs: int) -> tuple[int, int]:
        """Weights, each used once a pass, and biases."""
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
        """Layer norm and perceptron."""
        return self.norm_parameters + sum(self._actor)

    @property
    def target_parameters(self) -> int:
        """Of the target critic: layer norm and both Qs."""
        return self.norm_parameters + 2 * sum(self._q)

    @property
    def contrastive_parameters(self) -> int:
        """W of the bilinear form, trained where the contrastive loss is on."""
        return self.features**2

    @property
    def parameters(self) -> int:
        """What is trained without the contrastive loss: actor, critic (as large as its target), temperature."""
        return self.actor_parameters + self.target_parameters + 1

    @property
    def actor_multiply_adds(self) -> int:
        """Of the policy's mean and standard deviation."""
        return self._actor[0]

    @property
    def q_multiply_adds(self) -> int:
        """Of one of the two Qs."""
        return self._q[0]

    def contrastive_multiply_adds(self, batch_size: int) -> int:
        """Of W on one positive and of one anchor's logits against all positives of the minibatch."""
        return self.features**2 + batch_size * self.features
