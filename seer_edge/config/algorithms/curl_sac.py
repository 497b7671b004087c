"""CURL + SAC and SAC without torch: the sizes of their networks and their entries for the registry."""

from dataclasses import dataclass, replace
from functools import cached_property

from seer_edge.config.algorithms.algorithm import Algorithm, Arrays, EncoderChoice, part_of
from seer_edge.config.presets import SacSettings
from seer_edge.envs import Continuous
from seer_edge.networks.flops import ActorCriticFlops
from seer_edge.networks.graph import actor_graph
from seer_edge.networks.sac_spec import ACTOR, SacHeadSpec
from seer_edge.networks.spec import EncoderSpec


@dataclass(frozen=True)
class SacNetworks:
    """The sizes of the encoder (N = 2: critic and actor, cut after the fc) and heads. Only the critic has a target."""

    encoder: EncoderSpec
    head: SacHeadSpec
    contrastive: bool

    @classmethod
    def of(cls, encoder: EncoderChoice, settings: SacSettings, actions: int) -> "SacNetworks":
        """Build the sizes for one run. Raises ValueError where the encoder does not fit."""
        spec = encoder.spec(networks=2, features=settings.features)
        return cls(spec, SacHeadSpec(settings.features, settings.hidden, actions), settings.contrastive)

    @cached_property
    def target_encoder(self) -> EncoderSpec:
        """The encoder of the critic alone."""
        return replace(self.encoder, networks=1)

    @property
    def parameters(self) -> int:
        """Number of trained parameters: encoder, heads and, with the contrastive loss, its bilinear form."""
        contrast = self.head.contrastive_parameters if self.contrastive else 0
        return self.encoder.parameters + self.head.parameters + contrast

    @property
    def optimized_parameters(self) -> int:
        """Number of parameters in all optimizers. CURL's holds the critic's encoder and layer norm a second time."""
        again = self.target_encoder.parameters + self.head.norm_parameters if self.contrastive else 0
        return self.parameters + again

    @property
    def target_parameters(self) -> int:
        """Number of parameters of the target networks."""
        return self.target_encoder.parameters + self.head.target_parameters

    @property
    def policy_parameters(self) -> int:
        """Number of parameters of the actor, an upper bound: the graph has no standard deviations."""
        return self.head.actor_parameters

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by which imported heads are recognised."""
        head = self.head
        return {
            "actor.policy.layers.0.weight": (head.hidden, head.features),
            "actor.policy.layers.2.weight": (2 * head.actions, head.hidden),
        }

    def policy_graph(self, settings: SacSettings, agent: Arrays) -> bytes:
        """Build the ONNX graph of the mean action. Raises ValueError."""
        return actor_graph(self.head, ACTOR, self.encoder.networks, part_of(agent, "actor."))

    def flops(
        self, *, batch_size: int, augmentations: int, frame_capacity: int, latent_replay: bool
    ) -> ActorCriticFlops:
        """Return the cost of a step before and after the freeze, counted from the passes of an update (Appendix C)."""
        encoder = self.encoder
        return ActorCriticFlops(
            trunk=encoder.trunk_multiply_adds,
            frozen_trunk=encoder.trunk_multiply_adds if encoder.whole else encoder.frozen_multiply_adds,
            fc=encoder.fc_multiply_adds,
            fc_frozen=encoder.whole,
            actor=self.head.actor_multiply_adds,
            q=self.head.q_multiply_adds,
            batch_size=batch_size,
            augmentations=augmentations,
            contrastive=self.contrastive,
            frame_capacity=frame_capacity,
            latent_replay=latent_replay,
        )


CURL_SAC = Algorithm(
    settings=SacSettings,
    actions=Continuous,
    networks=SacNetworks.of,
    agent="seer_edge.agents.curl_sac:CurlSacAgent",
    default_preset="control",
    # The layer norms belong to the heads, but the freeze ends their training too.
    encoder_arrays=("encoder.", "critic.norm.", "actor.norm."),
    fixed={"contrastive": True},
    map_factor=2.0,
)

SAC = replace(CURL_SAC, fixed={"contrastive": False})
