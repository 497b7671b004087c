"""FLOP counts of Appendix C: its worked example, Rainbow and SEER on Alien, and CURL + SAC.

The counts of CURL + SAC are compared with a second count here, pass by pass, and with torch's counter on real updates.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from seer_edge.agents.curl_sac import CurlSacAgent
from seer_edge.config.algorithms.curl_sac import SacNetworks
from seer_edge.config.build import build_config
from seer_edge.config.plan import make_plan
from seer_edge.config.presets import SacSettings
from seer_edge.envs import Continuous, EnvSpec
from seer_edge.networks.flops import ActorCriticFlops, QLearningFlops
from seer_edge.networks.sac_spec import SacHeadSpec
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
from seer_runtime.replay.replay import Batch
from tests.seer_edge.observations import SliceBuffer

ENCODER = encoder_spec("data-efficient", input_shape=(4, 84, 84))
HEAD = RainbowHeadSpec(ENCODER.latent_size, hidden=256, actions=18, atoms=51)
ALIEN = QLearningFlops(
    encoder=ENCODER.multiply_adds,
    frozen=ENCODER.frozen_multiply_adds,
    head=HEAD.multiply_adds,
    batch_size=32,
    frame_capacity=500_000,
)


# --- Rainbow -----------------------------------------------------------------------------------------------


def test_multiply_adds_of_the_data_efficient_network() -> None:
    assert ENCODER.multiply_adds == 819_200 + 460_800 == 1_280_000
    assert HEAD.multiply_adds == 294_912 + 13_056 + 235_008 == 542_976
    assert ENCODER.latent_size == 576


def test_multiply_adds_of_the_canonical_network() -> None:
    encoder = encoder_spec("canonical", input_shape=(4, 84, 84))
    assert encoder.shapes == ((4, 84, 84), (32, 20, 20), (64, 9, 9), (64, 7, 7))
    first, second, third = 32 * 20 * 20 * 4 * 8 * 8, 64 * 9 * 9 * 32 * 4 * 4, 64 * 7 * 7 * 64 * 3 * 3
    assert encoder.multiply_adds == first + second + third == 7_737_344
    assert encoder.latent_size == 3_136
    head = RainbowHeadSpec(encoder.latent_size, hidden=256, actions=18, atoms=51)
    assert head.multiply_adds == 2 * 3_136 * 256 + 256 * 51 * 19 == 1_853_696


def test_one_iteration_of_rainbow_on_alien() -> None:
    assert (ALIEN.forwards, ALIEN.backwards) == (3, 1)
    assert ALIEN.before_freeze == 293_499_136
    assert ALIEN.after_freeze == 89_979_136


def test_conversion_encodes_the_rows_that_the_replay_holds() -> None:
    assert ALIEN.conversion(50_000) == 64_000_000_000
    small = dataclasses.replace(ALIEN, frame_capacity=9_920)
    assert small.conversion(50_000) == 1_280_000 * 9_920
    assert small.conversion(9_920) == small.conversion(50_000)
    assert small.conversion(100) == 128_000_000


def test_layers_that_still_train_are_counted_like_the_head() -> None:
    first = dataclasses.replace(ALIEN, frozen=819_200)
    assert first.before_freeze == ALIEN.before_freeze
    upper = 460_800 + 542_976
    assert first.after_freeze == 32 * 5 * upper + (1_280_000 + 542_976) + 819_200
    assert first.conversion(50_000) == 819_200 * 50_000
    # With a pixel replay the frozen layer runs on s and s' of every batch, and no latents are stored.
    pixels = dataclasses.replace(first, latent_replay=False)
    assert pixels.after_freeze == 32 * 5 * upper + (1_280_000 + 542_976) + 2 * 32 * 819_200
    assert pixels.conversion(50_000) == 0
    assert ALIEN.after_freeze < first.after_freeze < pixels.after_freeze < ALIEN.before_freeze


@pytest.mark.parametrize(("freeze_at", "step"), [(None, 153_322), (50_000, 386_311)])
def test_45_teraflops_are_reached_at_the_step_of_the_papers_example(freeze_at: int | None, step: int) -> None:
    assert ALIEN.total(step, freeze_at) <= 45 * 10**12 < ALIEN.total(step + 1, freeze_at)


def test_total_is_the_sum_over_iterations() -> None:
    freeze_at = 7
    small = dataclasses.replace(ALIEN, frame_capacity=5)
    total = 0
    for timestep in range(1, 30):
        total += small.before_freeze if timestep <= freeze_at else small.after_freeze
        total += small.encoder * 5 if timestep == freeze_at else 0
        assert small.total(timestep, freeze_at) == total
    assert small.total(0, freeze_at) == small.total(0, None) == 0


def test_total_grows_with_every_step_and_shrinks_with_an_earlier_freeze() -> None:
    steps = range(0, 200_000, 9_999)
    for freeze_at in (None, 50_000, 100_000):
        assert all(a < b for a, b in itertools.pairwise(ALIEN.total(step, freeze_at) for step in steps))
    ends = [ALIEN.total(500_000, freeze_at) for freeze_at in (1, 50_000, 100_000, 400_000, None)]
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)


# --- CURL + SAC, pass by pass ------------------------------------------------------------------------------

BATCH, ACTIONS = 128, 6
FIRST_CONV = 32 * 41**2 * 9 * 3**2  # filters, map, channels, kernel
UPPER_CONVS = [32 * side**2 * 32 * 3**2 for side in (39, 37, 35)]
TRUNK = FIRST_CONV + sum(UPPER_CONVS)
FC = 32 * 35**2 * 50
ACTOR = 50 * 1024 + 1024**2 + 1024 * 2 * ACTIONS
Q = (50 + ACTIONS) * 1024 + 1024**2 + 1024 * 1
BACKWARD = 2  # cost of a backward pass in forward passes (Appendix C)

WALKER = EnvSpec("dm_control/walker-walk-v0", "walker-walk", (3, 100, 100), (84, 84), Continuous(ACTIONS))


def _walker(**given: Any) -> ActorCriticFlops:
    flops = make_plan(build_config(WALKER, **given), WALKER).flops
    assert isinstance(flops, ActorCriticFlops)
    return flops


def _critic() -> tuple[int, int]:
    """Return the cost of the critic's loss for one observation, in the encoder and in the heads.

    It trains Q of o and evaluates the target's Q of o' and the actor's action.
    """
    of_o = (1 + BACKWARD) * (TRUNK + FC), (1 + BACKWARD) * 2 * Q
    of_next_o = 2 * TRUNK + 2 * FC, ACTOR + 2 * Q
    return of_o[0] + of_next_o[0], of_o[1] + of_next_o[1]


def _actor() -> tuple[float, float]:
    """Return the cost of the actor's loss, every second update, in the encoder and in the heads.

    It trains the actor's fc and policy through both Qs, back to their actions only.
    """
    return (1 + BACKWARD) * FC / 2, ((1 + BACKWARD) * ACTOR + 2 * Q + 2 * Q) / 2


def _contrast() -> int:
    """Return the cost of the contrastive loss: the trained pass of the query and the pass of the key."""
    return (1 + BACKWARD) * (TRUNK + FC) + (TRUNK + FC)


def test_sizes_of_curl_sac_on_walker() -> None:
    flops = _walker()
    assert (flops.trunk, flops.frozen_trunk, flops.fc, flops.actor, flops.q) == (TRUNK, TRUNK, FC, ACTOR, Q)
    assert (flops.batch_size, flops.augmentations, flops.frame_capacity) == (128, 4, 2_000)
    assert flops.fc_frozen
    assert flops.latent_replay


def test_one_iteration_of_curl_sac_before_the_freeze() -> None:
    acting = TRUNK + FC + ACTOR
    encoder, heads = (critic + actor for critic, actor in zip(_critic(), _actor(), strict=True))
    # The actor's step reuses the query's pass for the critic's latents, which are constant to it.
    assert _walker().before_freeze == BATCH * (encoder + heads + _contrast()) + acting
    # Without CURL there is no query: the actor's step makes that pass itself.
    assert _walker(algo="sac").before_freeze == BATCH * (encoder + heads + (TRUNK + FC) / 2) + acting


def test_one_iteration_of_curl_sac_after_the_freeze() -> None:
    """Only the heads train. One call encodes K crops and the center crop, on which the actor acts."""
    heads = BATCH * (_critic()[1] + _actor()[1])
    for augmentations in (1, 4):
        for algo in ("curl-sac", "sac"):
            flops = _walker(augmentations=augmentations, algo=algo)
            assert flops.after_freeze == heads + ACTOR + (augmentations + 1) * (TRUNK + 2 * FC)
            assert flops.conversion(80_000) == 2_000 * augmentations * (TRUNK + 2 * FC)
            assert flops.conversion(100) == 100 * augmentations * (TRUNK + 2 * FC)


def test_a_freeze_of_two_convolutions_saves_their_gradients() -> None:
    frozen = FIRST_CONV + UPPER_CONVS[0]
    flops = _walker(freeze_layers=2)
    assert (flops.frozen_trunk, flops.latent_replay, flops.conversion(80_000)) == (frozen, False, 0)
    assert flops.before_freeze == _walker().before_freeze
    # After the freeze the frozen layers run forward once on o, o' and the positives. Before it they ran on o for the
    # critic and the query, on o' for actor and target, on the positives, and backward twice.
    passes_before, passes_after = (1 + BACKWARD) + 2 + (1 + BACKWARD) + 1, 3
    assert flops.before_freeze - flops.after_freeze == BATCH * (passes_before - passes_after) * frozen
    plain = _walker(freeze_layers=2, algo="sac")
    assert plain.before_freeze - plain.after_freeze == BATCH * ((1 + BACKWARD) + 2 + 0.5 - 2) * frozen


def test_a_freeze_of_a_narrow_convolution_saves_its_passes_too() -> None:
    given = {"encoder": "impala", "freeze_layers": 15, "augmentations": 1, "latent_codec": "float16"}
    flops = _walker(**given)
    assert flops.latent_replay
    assert not flops.fc_frozen
    assert flops.frozen_trunk == flops.trunk
    fc = 32 * 11 * 11 * 50
    learned = (1 + BACKWARD) + 2 + (1 + BACKWARD) / 2 + (1 + BACKWARD) + 1
    heads = BATCH * (_critic()[1] + _actor()[1])
    assert flops.after_freeze == heads + BATCH * learned * fc + fc + ACTOR + 2 * flops.trunk
    assert flops.conversion(80_000) == 2_000 * flops.trunk


# --- CURL + SAC by torch's counter -------------------------------------------------------------------------

TINY = SacSettings(batch_size=6, hidden=7, features=5)
TINY_SPEC = encoder_spec("sac-ae", input_shape=(9, 21, 21), networks=2, features=5)
TINY_HEAD = SacHeadSpec(features=5, hidden=7, actions=3)


def _counted(agent: CurlSacAgent, shape: tuple[int, ...], updates: int = 2) -> int:
    """Return the multiply-adds of `updates` updates by torch's counter, which counts two for each multiply-add.

    Every second update steps the actor.
    """
    rng, size = np.random.default_rng(0), TINY.batch_size
    buffer = SliceBuffer(4)

    def observations() -> Any:
        frames = rng.integers(0, 256, (size, *shape), np.uint8)
        return buffer.of(frames if len(shape) == 3 else frames.astype(np.float32))

    counter = FlopCounterMode(display=False)
    with counter:
        for _ in range(updates):
            actions = rng.uniform(-1, 1, (size, 3)).astype(np.float32)
            ones = np.ones(size, np.float32)
            rows = np.arange(size)
            agent.update(Batch(observations(), actions, ones, ones, observations(), ones, rows, observations()))
    assert counter.get_total_flops() % 2 == 0
    return int(counter.get_total_flops()) // 2


def _first_layers() -> tuple[int, int]:
    """Return the multiply-adds of the first layer of the actor, and of both Qs together."""
    return 5 * 7, 2 * (5 + 3) * 7


def _of(contrastive: bool, frozen_layers: int | None, *, latent_replay: bool) -> tuple[CurlSacAgent, ActorCriticFlops]:
    spec = dataclasses.replace(TINY_SPEC, frozen_layers=frozen_layers)
    settings = dataclasses.replace(TINY, contrastive=contrastive)
    networks = SacNetworks(spec, TINY_HEAD, contrastive)
    config = build_config(WALKER)
    flops = networks.flops(
        batch_size=settings.batch_size,
        augmentations=config.augmentations,
        frame_capacity=10,
        latent_replay=latent_replay,
    )
    assert isinstance(flops, ActorCriticFlops)
    return CurlSacAgent(spec, TINY_HEAD, settings, seed=0), flops


def _bilinear(contrastive: bool) -> int:
    """Return the multiply-adds that the model leaves out: W on the keys, W's gradient, and the logits both ways."""
    size, features = TINY.batch_size, TINY.features
    return contrastive * (2 * size * features**2 + 3 * size**2 * features)


@pytest.mark.parametrize("contrastive", [True, False])
def test_torch_counts_the_same_before_the_freeze(contrastive: bool) -> None:
    """torch skips unused gradients that the paper's rule counts: of pixels, and of the maps under the actor's fc."""
    agent, flops = _of(contrastive, None, latent_replay=True)
    first_conv = 32 * 10**2 * 9 * 3**2
    backward_passes = 2 * (1 + contrastive)  # through the trunk, in two updates
    skipped = TINY.batch_size * (backward_passes * first_conv + flops.fc)
    acting = flops.trunk + flops.fc + flops.actor
    expected = 2 * (flops.before_freeze - acting + _bilinear(contrastive)) - skipped
    assert _counted(agent, (9, 21, 21)) == expected
    assert skipped < 0.15 * expected


@pytest.mark.parametrize("contrastive", [True, False])
def test_torch_counts_the_same_after_the_freeze(contrastive: bool) -> None:
    """torch skips the unused gradients of latents, and its counter does not see ONNX Runtime's encoder."""
    agent, flops = _of(contrastive, None, latent_replay=True)
    agent.freeze_encoder(reads_latents=True)
    of_actor, of_qs = _first_layers()
    skipped = TINY.batch_size * (of_actor + 2 * of_qs)
    encoding_and_acting = 5 * (flops.trunk + 2 * flops.fc) + flops.actor
    assert _counted(agent, (2, 5)) == 2 * (flops.after_freeze - encoding_and_acting) - skipped


@pytest.mark.parametrize("latent_replay", [True, False])
@pytest.mark.parametrize("contrastive", [True, False])
def test_torch_counts_the_same_over_frozen_convolutions(contrastive: bool, latent_replay: bool) -> None:
    """Two of four convolutions are frozen. With a pixel replay torch runs them in each update."""
    agent, flops = _of(contrastive, 2, latent_replay=latent_replay)
    agent.freeze_encoder(reads_latents=latent_replay)
    third_conv = 32 * 6**2 * 32 * 3**2
    backward_passes = 2 * (1 + contrastive)
    skipped = TINY.batch_size * (backward_passes * third_conv + flops.fc)
    encoding = 5 * flops.frozen_trunk if latent_replay else flops.frozen_trunk
    acting = flops.trunk - flops.frozen_trunk + flops.fc + flops.actor
    expected = 2 * (flops.after_freeze - encoding - acting + _bilinear(contrastive)) - skipped
    assert _counted(agent, (1, 32 * 8 * 8) if latent_replay else (9, 21, 21)) == expected


def test_acting_is_one_pass_of_trunk_fc_and_actor() -> None:
    agent, flops = _of(True, None, latent_replay=True)
    with FlopCounterMode(display=False) as counter:
        agent.act(np.zeros((9, 21, 21), np.uint8))
    assert counter.get_total_flops() == 2 * (flops.trunk + flops.fc + flops.actor)
