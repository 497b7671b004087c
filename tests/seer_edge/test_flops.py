"""Appendix C's arithmetic, on the one example that is worked out in full: Rainbow and SEER on Alien."""

import dataclasses
import itertools

import pytest

from seer_edge.flops import RAINBOW_BACKWARDS, RAINBOW_FORWARDS, FlopsModel
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec

ENCODER = encoder_spec("data-efficient", stack=4, frame_shape=(84, 84))
HEAD = RainbowHeadSpec(ENCODER.latent_size, hidden=256, actions=18, atoms=51)
ALIEN = FlopsModel(
    encoder=ENCODER.multiply_adds,
    head=HEAD.multiply_adds,
    batch_size=32,
    forwards=RAINBOW_FORWARDS,
    backwards=RAINBOW_BACKWARDS,
    frame_capacity=500_000,
)


def test_multiply_adds_of_the_data_efficient_network() -> None:
    assert ENCODER.multiply_adds == 819_200 + 460_800 == 1_280_000
    assert HEAD.multiply_adds == 294_912 + 13_056 + 235_008 == 542_976
    assert ENCODER.latent_size == 576


def test_multiply_adds_of_the_canonical_network() -> None:
    encoder = encoder_spec("canonical", stack=4, frame_shape=(84, 84))
    assert encoder.shapes == ((4, 84, 84), (32, 20, 20), (64, 9, 9), (64, 7, 7))
    first, second, third = 32 * 20 * 20 * 4 * 8 * 8, 64 * 9 * 9 * 32 * 4 * 4, 64 * 7 * 7 * 64 * 3 * 3
    assert encoder.multiply_adds == first + second + third == 7_737_344
    assert encoder.latent_size == 3_136
    head = RainbowHeadSpec(encoder.latent_size, hidden=256, actions=18, atoms=51)
    assert head.multiply_adds == 2 * 3_136 * 256 + 256 * 51 * 19 == 1_853_696


def test_one_iteration() -> None:
    assert (RAINBOW_FORWARDS, RAINBOW_BACKWARDS) == (3, 1)
    assert ALIEN.before_freeze == 293_499_136
    assert ALIEN.after_freeze == 89_979_136


def test_conversion_encodes_what_the_replay_holds() -> None:
    assert ALIEN.conversion(50_000) == 64_000_000_000
    small = dataclasses.replace(ALIEN, frame_capacity=9_920)
    assert small.conversion(50_000) == 1_280_000 * 9_920
    assert small.conversion(9_920) == small.conversion(50_000)
    assert small.conversion(100) == 128_000_000


def test_augmentations_and_encoders_multiply_what_is_encoded() -> None:
    many = dataclasses.replace(ALIEN, augmentations=4, encoders=2)
    assert many.before_freeze == ALIEN.before_freeze
    assert many.after_freeze == ALIEN.after_freeze + 7 * ALIEN.encoder
    assert many.conversion(50_000) == 8 * ALIEN.conversion(50_000)


@pytest.mark.parametrize(("freeze_at", "step"), [(None, 153_322), (50_000, 386_311)])
def test_45_t_is_reached_where_the_example_says(freeze_at: int | None, step: int) -> None:
    assert ALIEN.total(step, freeze_at) <= 45 * 10**12 < ALIEN.total(step + 1, freeze_at)


def test_total_is_the_sum_of_its_iterations() -> None:
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
