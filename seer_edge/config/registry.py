"""What each kind of agent is, without torch: the plan counts it, `agents.make_agent` builds it.

A new agent is an entry of `ALGORITHMS`, a class of its networks, settings and presets, and a module in `agents`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.envs import Continuous, Discrete, EnvSpec
from seer_edge.networks.flops import ActorCriticFlops, FlopsModel, QLearningFlops
from seer_edge.networks.graph import actor_graph, rainbow_graph
from seer_edge.networks.sac_spec import ACTOR, SacHeadSpec
from seer_edge.networks.spec import EncoderSpec, RainbowHeadSpec, encoder_spec

if TYPE_CHECKING:
    from seer_edge.config.config import TrainConfig  # which asks this module what there is


Arrays = Mapping[str, NDArray[Any]]
"""Of an agent's state, by name."""


def _part(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def input_shape(env: EnvSpec, stack: int) -> tuple[int, int, int]:
    """`(C, h, w)` of what an encoder sees: the cropped frames of one stack, the oldest frame's channels first."""
    return (stack * math.prod(env.frame_shape[:-2]), *env.crop_shape)


def _placed(encoder: EncoderSpec, config: "TrainConfig") -> EncoderSpec:
    """Outside the learner where it is taken as a whole: torch has nothing to do with it."""
    return replace(encoder, outside=config.source is not None and encoder.whole)


@dataclass(frozen=True)
class RainbowNetworks:
    """Rainbow's encoder (N = 1, cut after the last convolution) and head, each with a target network."""

    encoder: EncoderSpec
    head: RainbowHeadSpec

    @classmethod
    def of(cls, config: "TrainConfig", env: EnvSpec) -> "RainbowNetworks":
        """The networks of a run. Raises ValueError where the encoder does not fit."""
        settings = config.settings
        assert isinstance(settings, RainbowSettings)
        assert isinstance(env.actions, Discrete)
        shape = input_shape(env, settings.stack)
        encoder = _placed(encoder_spec(config.encoder, input_shape=shape, frozen_layers=config.freeze_layers), config)
        return cls(encoder, RainbowHeadSpec(encoder.flat_size, settings.hidden, env.actions.count, settings.atoms))

    @property
    def parameters(self) -> int:
        """What is trained."""
        return self.encoder.parameters + self.head.parameters

    @property
    def optimized_parameters(self) -> int:
        """Of all optimizers together: there is one."""
        return self.parameters

    @property
    def target_parameters(self) -> int:
        """What follows it."""
        return self.parameters

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of some weights in an agent's state, by which a head of these sizes is known."""
        head = self.head
        return {
            "head.hidden.weight": (2 * head.hidden, head.latent_size),
            "head.advantage.weight": (head.actions * head.atoms, head.hidden),
        }

    def policy_graph(self, config: "TrainConfig", agent: Arrays) -> bytes:
        """The head that acts as an ONNX graph, from the arrays of an agent's state. Raises ValueError."""
        assert isinstance(config.settings, RainbowSettings)
        return rainbow_graph(self.head, config.settings.value_range, _part(agent, "head."))

    def flops(self, config: "TrainConfig", frame_capacity: int, latent_replay: bool) -> FlopsModel:
        """The terms of Appendix C."""
        return QLearningFlops(
            encoder=self.encoder.multiply_adds,
            frozen=self.encoder.frozen_multiply_adds,
            head=self.head.multiply_adds,
            batch_size=config.settings.batch_size,
            frame_capacity=frame_capacity,
            latent_replay=latent_replay,
        )


@dataclass(frozen=True)
class SacNetworks:
    """CURL + SAC's encoder (N = 2: critic and actor, cut after the fc) and heads; the target is the critic's alone."""

    encoder: EncoderSpec
    head: SacHeadSpec
    contrastive: bool

    @classmethod
    def of(cls, config: "TrainConfig", env: EnvSpec) -> "SacNetworks":
        """The networks of a run. Raises ValueError where the encoder does not fit."""
        settings = config.settings
        assert isinstance(settings, SacSettings)
        assert isinstance(env.actions, Continuous)
        encoder = encoder_spec(
            config.encoder,
            input_shape=input_shape(env, settings.stack),
            networks=2,
            features=settings.features,
            frozen_layers=config.freeze_layers,
        )
        encoder = _placed(encoder, config)
        head = SacHeadSpec(settings.features, settings.hidden, env.actions.size)
        return cls(encoder, head, settings.contrastive)

    @cached_property
    def target_encoder(self) -> EncoderSpec:
        """The critic's encoder alone."""
        return replace(self.encoder, networks=1)

    @property
    def parameters(self) -> int:
        """What is trained."""
        contrast = self.head.contrastive_parameters if self.contrastive else 0
        return self.encoder.parameters + self.head.parameters + contrast

    @property
    def optimized_parameters(self) -> int:
        """Of all optimizers together: CURL's has the critic's encoder and layer norm a second time."""
        again = self.target_encoder.parameters + self.head.norm_parameters if self.contrastive else 0
        return self.parameters + again

    @property
    def target_parameters(self) -> int:
        """What follows it."""
        return self.target_encoder.parameters + self.head.target_parameters

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of some weights in an agent's state, by which heads of these sizes are known."""
        head = self.head
        return {
            "actor.policy.layers.0.weight": (head.hidden, head.features),
            "actor.policy.layers.2.weight": (2 * head.actions, head.hidden),
        }

    def policy_graph(self, config: "TrainConfig", agent: Arrays) -> bytes:
        """The head that acts as an ONNX graph, from the arrays of an agent's state. Raises ValueError."""
        return actor_graph(self.head, ACTOR, self.encoder.networks, _part(agent, "actor."))

    def flops(self, config: "TrainConfig", frame_capacity: int, latent_replay: bool) -> FlopsModel:
        """The terms of Appendix C, counted from what an update does."""
        encoder = self.encoder
        return ActorCriticFlops(
            trunk=encoder.trunk_multiply_adds,
            frozen_trunk=encoder.trunk_multiply_adds if encoder.whole else encoder.frozen_multiply_adds,
            fc=encoder.fc_multiply_adds,
            fc_frozen=encoder.whole,
            actor=self.head.actor_multiply_adds,
            q=self.head.q_multiply_adds,
            batch_size=config.settings.batch_size,
            augmentations=config.augmentations,
            contrastive=self.contrastive,
            frame_capacity=frame_capacity,
            latent_replay=latent_replay,
        )


Networks = RainbowNetworks | SacNetworks


@dataclass(frozen=True)
class Algorithm:
    """One kind of agent."""

    settings: type[RainbowSettings] | type[SacSettings]
    actions: type[Discrete] | type[Continuous]
    networks: Callable[["TrainConfig", EnvSpec], Networks]
    agent: str  # "module:class", imported when an agent is built
    encoder_arrays: tuple[str, ...]  # prefixes of what makes an encoder in its state, for a transfer


_SAC = Algorithm(
    settings=SacSettings,
    actions=Continuous,
    networks=SacNetworks.of,
    agent="seer_edge.agents.curl_sac:CurlSacAgent",
    # The layer norms stand in the heads, but a freeze ends their training too.
    encoder_arrays=("encoder.", "critic.norm.", "actor.norm."),
)

ALGORITHMS = {
    "rainbow": Algorithm(
        settings=RainbowSettings,
        actions=Discrete,
        networks=RainbowNetworks.of,
        agent="seer_edge.agents.rainbow:RainbowAgent",
        encoder_arrays=("encoder.",),
    ),
    "curl-sac": _SAC,
    "sac": _SAC,  # without the contrastive loss
}


def check_actions(algo: str, env: EnvSpec) -> None:
    """Raise ValueError where the agent `algo` cannot act in `env`."""
    if not isinstance(env.actions, ALGORITHMS[algo].actions):
        fitting = " or ".join(name for name, known in ALGORITHMS.items() if isinstance(env.actions, known.actions))
        kind = type(env.actions).__name__.lower()
        raise ValueError(f"{env.name} has {kind} actions; its agent is {fitting}")
