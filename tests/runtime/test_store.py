"""What the row store refuses, and ids."""

import numpy as np
import pytest

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, frame_codec, latent_codec
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import Line
from tests.runtime.naive_replay import ledger_of


def _store(rows: int, codec: Codec, stack: int = 1) -> RowStore:
    ledger = ledger_of(rows * codec.row_bytes)
    return RowStore(Arena(rows * codec.row_bytes, ledger), codec, stack=stack, ledger=ledger)


# The design's table, section 2.
ALIEN = {"float32": 30_380, "float16": 60_760, "uint8": 121_520, "uint4": 243_040}
CARTPOLE = {"float32": 18_750, "float16": 37_500, "uint8": 75_000, "uint4": 150_000}
WALKER = {name: 2 * rows for name, rows in CARTPOLE.items()}


@pytest.mark.parametrize(
    ("codec", "observation"),
    [
        (frame_codec((2, 3)), np.zeros((3, 2), np.uint8)),
        (frame_codec((2, 3)), np.zeros(6, np.uint8)),
        (frame_codec((2, 3)), np.zeros((4, 2, 3), np.uint8)),
        (frame_codec((2, 3)), np.zeros((2, 3), np.float32)),
        (frame_codec((3, 2, 3)), np.zeros((2, 3, 3), np.uint8)),
        (frame_codec((3, 2, 3)), np.zeros((2, 3), np.uint8)),
        (frame_codec((4, 4), (2, 3)), np.zeros((2, 3), np.uint8)),  # a row takes whole frames
        (latent_codec("float32", (6,)), np.zeros((1, 6), np.uint8)),
        (latent_codec("float32", (6,)), np.zeros((1, 6), np.float64)),
        (latent_codec("float32", (6,)), np.zeros(6, np.float32)),
        (latent_codec("float16", (6,)), np.zeros((1, 6), np.float16)),
        (latent_codec("float16", (6,)), np.zeros((1, 1, 6), np.float32)),
        (latent_codec("float32", (2, 3), 4), np.zeros((3, 2, 3), np.float32)),
        (latent_codec("float32", (2, 3), 4), np.zeros((2, 3), np.float32)),
        (latent_codec("float32", (2, 3), 4), np.zeros((4, 3, 2), np.float32)),
    ],
)
def test_an_observation_of_another_shape_or_dtype_is_refused(codec: Codec, observation: np.ndarray) -> None:
    store = _store(4, codec)
    with pytest.raises(ValueError, match="a row takes"):
        store.append(observation, 0, 0.0, terminated=False, truncated=False)
    assert store.rows == store.appended == 0


@pytest.mark.parametrize("stack", [0, -1, 256])
def test_a_stack_beyond_what_age_counts_is_refused(stack: int) -> None:
    with pytest.raises(ValueError, match="outside 1 to 255"):
        _store(300, frame_codec((1, 1)), stack)


@pytest.mark.parametrize(("rows", "stack"), [(0, 1), (3, 4)])
def test_an_arena_below_one_stack_is_refused(rows: int, stack: int) -> None:
    with pytest.raises(ValueError, match="stack"):
        _store(rows, frame_codec((1, 5)), stack)


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown codec 'bfloat16'; choose one of float32, float16, uint8, uint4"):
        latent_codec("bfloat16", (3,))


def test_ids_of_overwritten_and_future_rows_are_not_held() -> None:
    store = _store(3, frame_codec((1, 1)))
    for value in range(5):
        row = store.append(np.array([[value]], np.uint8), 0, 0.0, terminated=False, truncated=False)
        assert row == value
    assert store.holds(np.arange(-1, 6)).tolist() == [False, False, False, True, True, True, False]
    assert (store.oldest, store.appended, store.rows, store.capacity) == (2, 5, 3, 3)


def test_a_scene_goes_on_only_after_an_episode_that_terminated() -> None:
    store, frame = _store(3, frame_codec((1, 1)), stack=2), np.zeros((1, 1), np.uint8)
    for terminated, truncated in ((None, None), (False, False), (False, True)):
        if terminated is not None:
            store.append(frame, 0, 0.0, terminated=terminated, truncated=truncated)
        with pytest.raises(ValueError, match="a scene goes on only where an episode has just terminated"):
            store.continue_scene()
    store.append_final(frame)
    with pytest.raises(ValueError, match="a scene goes on only"):
        store.continue_scene()
    store.append(frame, 0, 0.0, terminated=True, truncated=False)
    store.continue_scene()
    store.append(frame, 0, 0.0, terminated=False, truncated=False)
    assert store.columns.age[store.slots(np.array([3, 4]))].tolist() == [0, 1]


def test_columns_are_on_their_line() -> None:
    store = _store(10, frame_codec((1, 1)))
    assert store.ledger.held_bytes(Line.COLUMNS) == 10 * (4 + 4 + 1 + 1)


@pytest.mark.parametrize(
    ("preset", "budget_bytes", "frame", "latents", "augmentations", "capacity", "capacities"),
    [
        ("Atari", 70_000_000, (84, 84), (1, 576), 1, 9_920, ALIEN),
        ("control", 30_000_000, (3, 100, 100), (2, 50), 4, 1_000, CARTPOLE),
        ("control", 60_000_000, (3, 100, 100), (2, 50), 4, 2_000, WALKER),
    ],
)
def test_capacities_of_the_presets(
    preset: str,
    budget_bytes: int,
    frame: tuple[int, ...],
    latents: tuple[int, int],
    augmentations: int,
    capacity: int,
    capacities: dict[str, int],
) -> None:
    codec = frame_codec(frame, (84, 84))
    # The arena is C whole frames, not the budget: C_hat is taken from C * P.
    size_bytes = budget_bytes // codec.row_bytes * codec.row_bytes
    arena = Arena(size_bytes, ledger_of(budget_bytes))
    assert len(arena.rows(codec.row_bytes)) == capacity
    for name, rows in capacities.items():
        assert len(arena.rows(latent_codec(name, latents, augmentations).row_bytes)) == rows, preset
