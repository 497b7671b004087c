"""The stores that membench compares return the same batches."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import store_batches  # noqa: E402
import stores  # noqa: E402

from seer_edge.envs import EnvSpec, Frame, Step  # noqa: E402
from seer_edge.envs.actions import Action, Discrete  # noqa: E402
from seer_edge.networks.spec import encoder_spec  # noqa: E402
from seer_runtime.replay.codecs import LATENT_CODECS  # noqa: E402

FRAME_SHAPE = (25, 25)
FRAME_BYTES = 625
BUDGET_BYTES = 1_000_000


class Noise:
    """An environment of random frames, whose episodes have 1 to 60 steps and end in both ways."""

    spec = EnvSpec("test/Noise-v0", "Noise", FRAME_SHAPE, FRAME_SHAPE, Discrete(3))

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.left = 0

    def _frame(self) -> Frame:
        return self.rng.integers(0, 256, FRAME_SHAPE, np.uint8)

    def reset(self) -> Frame:
        self.left = int(self.rng.integers(1, 61))
        return self._frame()

    def step(self, action: Action) -> Step:
        self.left -= 1
        over, kind = self.left == 0, bool(self.rng.integers(2))
        return Step(self._frame(), float(action), over and kind, over and not kind, None)

    def close(self) -> None:
        pass


def _encoder() -> Any:
    return stores.new_encoder(encoder_spec(stores.ENCODER, input_shape=stores.stack_shape(FRAME_SHAPE)), 0)


def _filled(rows: int, seed: int = 0) -> tuple[list[stores.Store], Any]:
    encoder = _encoder()
    common = (BUDGET_BYTES, FRAME_SHAPE, seed)
    latents = [stores.Rows(f"latents {codec}", *common) for codec in LATENT_CODECS]
    latents += [stores.Rows(f"compact {codec}", *common, most_rows=rows) for codec in LATENT_CODECS]
    every: list[stores.Store] = [
        stores.TwoStacks("two stacks", *common),
        stores.SharedStacks("one stack", *common),
        stores.Rows("frames once", *common),
        stores.CompressedFrames("LZ4", *common, rows=rows),
        stores.Rows("compact frames", *common, most_rows=rows),
        *latents,
    ]
    store_batches.fill(every, Noise(seed), rows, seed)
    for codec, store in zip([*LATENT_CODECS, *LATENT_CODECS], latents, strict=True):
        store.convert(store.calibrated(codec, encoder), encoder)
    return every, encoder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [190, 1_000, 2_500])
def test_all_stores_return_the_same_batches_before_and_after_wrapping(rows: int, seed: int) -> None:
    every, encoder = _filled(rows, seed)
    for draw in range(5):
        assert store_batches.check_batches(every, encoder, draw) == stores.BATCH


@pytest.mark.parametrize(
    "fault", ["two stacks", "next stacks", "one stack", "frames once", "LZ4", "rewards", "latents"]
)
def test_check_batches_detects_a_changed_store(fault: str) -> None:
    every, encoder = _filled(190)
    by_name: dict[str, Any] = {store.name: store for store in every}
    if fault == "two stacks":
        by_name[fault].stacks[:, 0, 0, 0] ^= 1
    elif fault == "next stacks":
        by_name["two stacks"].next_stacks[:, 3, 24, 24] ^= 1
    elif fault == "one stack":
        by_name[fault].stacks[...] = np.roll(by_name[fault].stacks, 1, axis=0)
    elif fault == "frames once":
        by_name[fault].rows.storage.data[:, 7] ^= 1
    elif fault == "LZ4":
        by_name[fault].blobs.insert(0, by_name[fault].blobs.pop())
    elif fault == "rewards":
        by_name["frames once"].rows.columns.reward[:] += 1
    else:
        store = by_name["latents float16"]
        store.rows.storage.data[...] = np.roll(store.rows.storage.data, 1, axis=0)
    with pytest.raises(store_batches.DifferentBatchError):
        store_batches.check_batches(every, encoder, 0)


class Recording:
    """An encoder that keeps the stacks it is given."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.latent_shape = encoder.latent_shape
        self.stacks: list[Any] = []

    def __call__(self, stacks: Any) -> Any:
        self.stacks.append(stacks.copy())
        return self._encoder(stacks)


def test_quantization_ranges_are_calibrated_without_blank_frames_as_in_a_freeze() -> None:
    store, encoder = stores.Rows("latents uint8", BUDGET_BYTES, FRAME_SHAPE, 0), Recording(_encoder())
    store_batches.fill([store], Noise(0), 500, 0)
    store.calibrated("uint8", encoder)
    seen = np.concatenate(encoder.stacks)
    assert len(seen) > 100
    assert seen.any(axis=(2, 3)).all()
    ids = np.arange(store.rows.oldest, store.rows.appended)
    ids = ids[store.rows.stack_is_whole(ids)]
    everything = np.concatenate([stacks.copy() for stacks in store.replay.observations(ids).slices()])
    assert not everything.any(axis=(2, 3)).all()


def test_compressed_frames_stay_within_the_budget() -> None:
    store = stores.CompressedFrames("LZ4", 30_000, FRAME_SHAPE, 0, rows=500)
    store_batches.fill([store], Noise(0), 500, 0)
    assert store.held_bytes == sum(map(len, store.blobs)) <= 30_000
    assert 30_000 - store.held_bytes < 2 * FRAME_BYTES
    assert store.rows.rows == sum(blob != b"" for blob in store.blobs)
    assert store.rows.appended == 500
    store_batches.sampling_seconds([store], 2)


def test_a_store_with_fewer_rows_than_a_window_cannot_be_sampled() -> None:
    class Endless(Noise):
        def reset(self) -> Frame:
            self.left = 10**6
            return self._frame()

    small = stores.TwoStacks("two stacks", 20 * 8 * FRAME_BYTES, FRAME_SHAPE, 0)
    large = stores.TwoStacks("two stacks", 21 * 8 * FRAME_BYTES, FRAME_SHAPE, 0)
    store_batches.fill([small, large], Endless(0), 100, 0)
    assert not store_batches.can_sample(small)
    assert store_batches.can_sample(large)
