"""Tests of the uint8 and uint4 codecs: rounding, exact zeros, packing, clip rate, and invalid states."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay.codecs import IntegerCodec
from seer_runtime.system.ledger import BudgetError, Ledger, Line
from seer_runtime.system.state import StateError
from tests.runtime.naive_replay import quantizers
from tests.runtime.replay_pair import Pair

Latents = NDArray[np.float32]
LEVELS = {"uint8": 255, "uint4": 15}
NAMES = pytest.mark.parametrize("name", LEVELS)

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 5))
"""B, K, N, L."""


@st.composite
def latents(draw: st.DrawFn) -> tuple[str, Latents, Latents]:
    """Generate a codec name, latents `[B, K, N, L]` of any kind, and calibration latents `[B', N, L]`."""
    elements = st.one_of(
        st.floats(-1e6, 1e6, width=32), st.floats(0, 4, width=32), st.just(0.0), st.floats(1000, 1001, width=32)
    )
    shape = draw(SHAPES)
    values = draw(npst.arrays(np.float32, shape, elements=elements))
    seen = draw(npst.arrays(np.float32, (draw(st.integers(1, 4)), *shape[2:]), elements=elements))
    return draw(st.sampled_from(sorted(LEVELS))), values, seen


def _calibrated(name: str, seen: Latents, augmentations: int = 1) -> IntegerCodec:
    codec = IntegerCodec(name, seen.shape[1:], augmentations, Ledger({}))
    codec.calibrate([seen])
    return codec


def _encoded(codec: IntegerCodec, values: Latents) -> NDArray[np.uint8]:
    rows = np.full((len(values), codec.row_bytes), 0xA5, np.uint8)
    codec.encode(values, rows)
    return rows


def _decoded(codec: IntegerCodec, rows: NDArray[np.uint8]) -> Latents:
    """Return all K latents of all rows, `[B, K, *view_shape]`."""
    count, augmentations = len(rows), codec.shape[0]
    out = np.full((count * augmentations, 1, *codec.view_shape), np.nan, np.float32)
    slots = np.repeat(np.arange(count), augmentations)[:, None]
    codec.gather(rows, slots, np.tile(np.arange(augmentations), count)[:, None], out)
    return out.reshape(count, *codec.shape)


@given(latents())
def test_every_element_follows_the_documented_quantization(case: tuple[str, Latents, Latents]) -> None:
    name, values, seen = case
    codec, naive = _calibrated(name, seen, values.shape[1]), quantizers(seen, LEVELS[name])
    rows = _encoded(codec, values)
    got = _decoded(codec, rows)
    clipped = 0
    for latent, decoded in zip(values.reshape(-1, len(naive)), got.reshape(-1, len(naive)), strict=True):
        for quantizer, value, element in zip(naive, latent, decoded, strict=True):
            assert element.tobytes() == quantizer.decoded(value).tobytes()
            clipped += not 0 <= quantizer.code(value) <= quantizer.levels
    assert codec.clip_rate == clipped / values.size
    np.testing.assert_array_equal(_encoded(codec, got), rows)  # encoding the decoded values gives the same bytes


@given(latents())
def test_error_of_calibration_values_is_at_most_half_a_step(case: tuple[str, Latents, Latents]) -> None:
    name, _, seen = case
    codec = _calibrated(name, seen)
    rows = _encoded(codec, seen[:, None])
    steps = codec.state().arrays["step"].reshape(seen.shape[1:])
    # Allow for float32 rounding, for values that are large compared with their differences.
    allowed = 0.5 * steps + 4 * np.spacing(np.abs(seen)) + 0.51 * steps * (name == "uint4")
    assert (np.abs(_decoded(codec, rows)[:, 0] - seen) <= allowed).all()


@NAMES
@given(data=st.data())
def test_zero_inside_the_range_is_decoded_exactly(name: str, data: st.DataObject) -> None:
    """The ranges start at zero, as after a ReLU, or contain both signs."""
    low, high = data.draw(st.floats(-5, 0, width=32)), data.draw(st.floats(0, 7, width=32))
    codec = _calibrated(name, np.array([[[low, 0, high, 0]], [[high, 0, low, high]]], np.float32))
    assert _decoded(codec, _encoded(codec, np.zeros((1, 1, 1, 4), np.float32))).tobytes() == bytes(16)


@NAMES
def test_constant_dimension_can_store_other_values_later(name: str) -> None:
    seen = np.zeros((3, 1, 3), np.float32)
    seen[1, 0] = 2, 0, 4
    codec = _calibrated(name, seen)
    varied = _decoded(codec, _encoded(codec, np.full((1, 1, 1, 3), 0.5, np.float32)))[0, 0, 0]
    np.testing.assert_allclose(varied, 0.5, atol=0.5 * 4 * 1.5 / LEVELS[name])
    zeros = _calibrated(name, np.zeros((3, 1, 3), np.float32))
    assert not _decoded(zeros, _encoded(zeros, np.zeros((2, 1, 1, 3), np.float32))).any()


@NAMES
def test_constant_latents_are_stored_exactly(name: str) -> None:
    seen = np.full((5, 1, 2), -0.1, np.float32)
    codec = _calibrated(name, seen)
    np.testing.assert_allclose(_decoded(codec, _encoded(codec, seen[:, None])), -0.1, rtol=1e-6)


def test_uint4_packs_the_two_halves_of_a_latent_into_shared_bytes() -> None:
    """The expected bytes are written by hand: steps of 1 from 0 to 15. An odd latent ends in four unused bits."""
    seen = np.zeros((2, 1, 5), np.float32)
    seen[1] = 15
    codec = _calibrated("uint4", seen, 2)
    values = np.array([[[[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 15]]]], np.float32)
    assert _encoded(codec, values).tobytes() == bytes([0x41, 0x52, 0x03, 0x96, 0xF7, 0x08])
    assert codec.row_bytes == 6


@NAMES
@pytest.mark.parametrize("width", [1, 2, 7, 576])
@pytest.mark.parametrize("augmentations", [1, 3, 4])
def test_row_bytes_round_up_to_whole_bytes_per_latent(name: str, width: int, augmentations: int) -> None:
    codec = IntegerCodec(name, (1, width), augmentations, Ledger({}))
    assert codec.row_bytes == augmentations * (width if name == "uint8" else (width + 1) // 2)


@NAMES
@pytest.mark.parametrize("seen", [[], [np.nan], [1.0, np.inf], [-np.inf]])
def test_calibration_rejects_missing_and_non_finite_latents(name: str, seen: list[float]) -> None:
    codec = IntegerCodec(name, (1, 1), 1, Ledger({}))
    with pytest.raises(ValueError, match=f"codec {name} needs finite latents"):
        codec.calibrate([np.array([[[value]]], np.float32) for value in seen])


@NAMES
def test_encoding_and_decoding_use_only_memory_from_the_ledger(name: str) -> None:
    """Encoding and decoding allocate nothing more, and `release` returns all memory."""
    ledger = Ledger({Line.WORKSPACE: 8_000_000})
    codec = IntegerCodec(name, (1, 3_136), 4, ledger)
    values = np.random.default_rng(0).random((16, 4, 1, 3_136), np.float32)
    codec.calibrate([values[:, 0], values[:, 1]])
    rows, out = np.zeros((16, codec.row_bytes), np.uint8), np.zeros((64, 1, 1, 3_136), np.float32)
    slots, views = np.arange(64)[:, None] % 16, np.arange(64)[:, None] % 4
    held, moments = ledger.held_bytes(Line.WORKSPACE), []
    for work in (lambda: codec.encode(values, rows), lambda: codec.gather(rows, slots, views, out)):
        tracemalloc.start()
        try:
            work()
            moments.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # numpy converts 8,192 elements at a time in its own buffers.
    assert max(moments) < 100_000 < out.nbytes // 8
    assert ledger.held_bytes(Line.WORKSPACE) == held
    codec.release()
    assert ledger.held_bytes(Line.WORKSPACE) == 0


def test_failed_construction_leaves_the_ledger_unchanged() -> None:
    ledger = Ledger({Line.WORKSPACE: 30_000})
    with pytest.raises(BudgetError, match="workspace"):
        IntegerCodec("uint8", (1, 3_136), 1, ledger)
    assert ledger.held_bytes(Line.WORKSPACE) == 0


def _fill(codec: IntegerCodec, **arrays: float) -> dict[str, Any]:
    state = codec.state()
    for name, value in arrays.items():
        state.arrays[name][-1] = value
    return dict(state.values)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 0.0},
        {"step": -1.0},
        {"step": np.nan},
        {"step": np.inf},
        {"step": 3e38},
        {"low": np.nan},
        {"low": -np.inf},
    ],
)
def test_restore_rejects_invalid_quantization_ranges(change: dict[str, float]) -> None:
    codec = _calibrated("uint8", np.ones((2, 1, 3), np.float32))
    values = _fill(codec, **change)
    with pytest.raises(ValueError, match="a step above zero and finite ends"):
        codec.restore(values)


@pytest.mark.parametrize("counts", [{"clipped": 2, "encoded": 1}, {"clipped": -1, "encoded": 1}, {"clipped": True}, {}])
def test_restore_rejects_invalid_counters(counts: dict[str, Any]) -> None:
    codec = _calibrated("uint8", np.ones((2, 1, 3), np.float32))
    with pytest.raises((ValueError, KeyError)):
        codec.restore(counts)


@pytest.mark.parametrize("name", ["codec.step", "codec.low"])
@pytest.mark.parametrize("change", ["gone", "float64", "longer", "nan"])
def test_replay_restore_rejects_quantization_arrays_of_another_kind(name: str, change: str, tmp_path: Path) -> None:
    pair = Pair.build(capacity=20, stack=2, n=1)
    pair.episode(15, "running")
    pair.convert("uint8", (3,))
    state = pair.replay.state()
    arrays = {key: array.copy() for key, array in state.arrays.items()}
    own = arrays.pop(name)
    changed = {"gone": {}, "float64": {name: own.astype("f8")}, "longer": {name: np.append(own, own[:1])}}
    write_tensors(tmp_path / "x", {**arrays, **changed.get(change, {name: np.full_like(own, np.nan)})})
    with open_tensors(tmp_path / "x") as tensors, pytest.raises(StateError):
        pair.replay.restore(state.values, tensors)
    write_tensors(tmp_path / "y", {**arrays, name: own})
    with open_tensors(tmp_path / "y") as tensors:
        assert pair.replay.restore(state.values, tensors) == 0
