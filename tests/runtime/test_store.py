"""Tests of the row store: rejected input, row ids, columns and capacities."""

import numpy as np
import pytest

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, frame_codec, latent_codec
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import Line
from tests.runtime.naive_replay import ledger_of


def _store(rows: int, codec: Codec, stack: int = 1) -> RowStore:
    ledger = ledger_of(rows * codec.row_bytes)
    return RowStore(FixedRows(Arena(rows * codec.row_bytes, ledger), codec), stack=stack, ledger=ledger)


# Rows by codec, from the table in section 2 of docs/design.md.
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
        (frame_codec((4, 4), (2, 3)), np.zeros((2, 3), np.uint8)),  # a row stores the whole frame, not a crop
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
def test_observation_of_another_shape_or_dtype_is_rejected(codec: Codec, observation: np.ndarray) -> None:
    store = _store(4, codec)
    with pytest.raises(ValueError, match="expected an observation of"):
        store.append(observation, 0, 0.0, terminated=False, truncated=False)
    assert store.rows == store.appended == 0


@pytest.mark.parametrize("stack", [0, -1, 256])
def test_stack_beyond_the_age_column_is_rejected(stack: int) -> None:
    with pytest.raises(ValueError, match="not from 1 to 255"):
        _store(300, frame_codec((1, 1)), stack)


@pytest.mark.parametrize(("rows", "stack"), [(0, 1), (3, 4)])
def test_arena_smaller_than_one_stack_is_rejected(rows: int, stack: int) -> None:
    with pytest.raises(ValueError, match="stack"):
        _store(rows, frame_codec((1, 5)), stack)


def test_unknown_codec_is_rejected_with_a_list_of_names() -> None:
    with pytest.raises(ValueError, match="unknown codec 'bfloat16'; choose one of float32, float16, uint8, uint4"):
        latent_codec("bfloat16", (3,))


def test_holds_is_false_for_overwritten_and_future_rows() -> None:
    store = _store(3, frame_codec((1, 1)))
    for value in range(5):
        row = store.append(np.array([[value]], np.uint8), 0, 0.0, terminated=False, truncated=False)
        assert row == value
    assert store.holds(np.arange(-1, 6)).tolist() == [False, False, False, True, True, True, False]
    assert (store.oldest, store.appended, store.rows, store.capacity) == (2, 5, 3, 3)


def test_a_scene_continues_only_after_a_terminated_episode() -> None:
    store, frame = _store(3, frame_codec((1, 1)), stack=2), np.zeros((1, 1), np.uint8)
    for terminated, truncated in ((None, None), (False, False), (False, True)):
        if terminated is not None:
            store.append(frame, 0, 0.0, terminated=terminated, truncated=truncated)
        with pytest.raises(ValueError, match="a scene can continue only after an episode has terminated"):
            store.continue_scene()
    store.append_final(frame)
    with pytest.raises(ValueError, match="a scene can continue only"):
        store.continue_scene()
    store.append(frame, 0, 0.0, terminated=True, truncated=False)
    store.continue_scene()
    store.append(frame, 0, 0.0, terminated=False, truncated=False)
    assert store.columns.age[store.slots(np.array([3, 4]))].tolist() == [0, 1]


def test_columns_are_counted_on_the_columns_line() -> None:
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
def test_presets_have_the_documented_capacities(
    preset: str,
    budget_bytes: int,
    frame: tuple[int, ...],
    latents: tuple[int, int],
    augmentations: int,
    capacity: int,
    capacities: dict[str, int],
) -> None:
    codec = frame_codec(frame, (84, 84))
    # The arena holds C whole frames, so its size is C * P. The number of latent rows follows from that, not the budget.
    size_bytes = budget_bytes // codec.row_bytes * codec.row_bytes
    arena = Arena(size_bytes, ledger_of(budget_bytes))
    assert len(arena.rows(codec.row_bytes)) == capacity
    for name, rows in capacities.items():
        assert len(arena.rows(latent_codec(name, latents, augmentations).row_bytes)) == rows, preset
