"""Tests of preprocessing: gray conversion, resizing, pooling of two screens, and the frame stack."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seer_runtime.policy.preprocess import (
    GRAY_LEVELS,
    RESIZES,
    FrameStack,
    Resize,
    pool_and_resize,
    resize,
    to_frame,
    to_gray,
    to_gray_levels,
)

Frame = NDArray[np.uint8]


def _screen(seed: int, shape: tuple[int, ...] = (210, 160)) -> Frame:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def test_gray_is_rec_601_luminance() -> None:
    rgb = _screen(0, (7, 5, 3))
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    gray = to_gray(rgb)
    assert gray.dtype == np.uint8
    assert gray.shape == (7, 5)
    assert np.abs(gray - expected).max() <= 1


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 4), (7, 5, 1)])
def test_to_gray_rejects_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an RGB screen, uint8 \[H, W, 3\]"):
        to_gray(_screen(0, shape))


def test_resize_to_the_same_size_returns_the_frame() -> None:
    frame = _screen(0, (84, 84))
    assert resize(frame, (84, 84)) is frame


def test_resize_averages_areas_and_expects_height_first() -> None:
    frame = _screen(0, (8, 6))
    blocks = frame.reshape(4, 2, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize(frame, (4, 2)) - blocks).max() <= 0.5


@pytest.mark.parametrize("shape", [(84, 84), (210, 160)])
def test_resize_writes_into_out(shape: tuple[int, int]) -> None:
    frame, out = _screen(0, shape), np.zeros((84, 84), np.uint8)
    assert resize(frame, (84, 84), out) is out
    np.testing.assert_array_equal(out, resize(frame, (84, 84)))


@pytest.mark.parametrize(
    "out",
    [np.zeros((84, 83), np.uint8), np.zeros((84, 84), np.float32), np.zeros((84, 168), np.uint8)[:, ::2]],
    ids=["size", "dtype", "strides"],
)
def test_resize_rejects_an_out_array_that_opencv_would_replace(out: Frame) -> None:
    with pytest.raises(ValueError, match=r"out must be C-contiguous uint8 \[84, 84\]"):
        resize(_screen(0), (84, 84), out)


@given(
    st.sampled_from([(), (1,), (3,)]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([(), (3,)]),
)
def test_to_frame_resizes_each_channel(
    channels: tuple[int, ...], sides: tuple[int, int], size: tuple[int, int], color: tuple[int, ...]
) -> None:
    screen = _screen(1, (*sides, *channels))
    frame = to_frame(screen, (*color, *size))
    assert (frame.shape, frame.dtype, frame.flags.c_contiguous) == ((*color, *size), np.uint8, True)
    if screen.shape == frame.shape:
        expected = screen
    elif channels != (3,):
        expected = resize(screen.reshape(sides), size)
    elif not color:
        expected = resize(to_gray(screen), size)
    else:
        expected = np.stack([resize(np.ascontiguousarray(screen[:, :, i]), size) for i in range(3)])
    np.testing.assert_array_equal(frame, np.broadcast_to(expected, frame.shape))


@pytest.mark.parametrize("shape", [(84, 84), (3, 84, 84)])
def test_to_frame_returns_a_frame_unchanged(shape: tuple[int, ...]) -> None:
    frame = _screen(0, shape)
    assert to_frame(frame, shape) is frame


@pytest.mark.parametrize("shape", [(7,), (7, 5, 2), (7, 5, 4), (1, 7, 5, 3)])
def test_to_frame_rejects_other_shapes_and_dtypes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a screen, uint8 \[H, W\]"):
        to_frame(_screen(0, shape), (4, 4))
    with pytest.raises(ValueError, match="got float32"):
        to_frame(np.zeros((4, 4), np.float32), (4, 4))  # type: ignore[arg-type]


def test_area_pooling_takes_the_maximum_before_the_resize() -> None:
    older, newer = _screen(1), _screen(2)
    kept = older.copy(), newer.copy()
    got = pool_and_resize(older, newer, (84, 84))
    expected = cv2.resize(np.maximum(older, newer), (84, 84), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal((older, newer), kept)

    out = np.zeros((84, 84), np.uint8)
    assert pool_and_resize(older, newer, (84, 84), pooled=newer, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(newer, np.maximum(*kept))


def _bilinear(screen: Frame, size: tuple[int, int] = (84, 84)) -> Frame:
    return np.asarray(cv2.resize(screen, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def test_bilinear_resizes_each_screen_before_the_maximum() -> None:
    older, newer = _screen(1), _screen(2)
    kept = older.copy(), newer.copy()
    expected = np.maximum(_bilinear(older), _bilinear(newer))
    assert not np.array_equal(expected, _bilinear(np.maximum(older, newer)))
    out = np.zeros((84, 84), np.uint8)
    assert pool_and_resize(older, newer, (84, 84), "bilinear", pooled=newer, out=out) is out
    for got in (out, pool_and_resize(older, newer, (84, 84), "bilinear")):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal((older, newer), kept)


@pytest.mark.parametrize("how", RESIZES)
def test_screens_of_the_size_of_frames_are_left_alone(how: Resize) -> None:
    older, newer = _screen(1, (84, 84)), _screen(2, (84, 84))
    kept = older.copy(), newer.copy()
    frame = pool_and_resize(older, newer, (84, 84), how)
    np.testing.assert_array_equal(frame, np.maximum(older, newer))
    assert not np.shares_memory(frame, older)
    np.testing.assert_array_equal((older, newer), kept)


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_pair_of_screens_becomes_one_frame(how: Resize, channels: tuple[int, ...]) -> None:
    older, newer = _screen(1, (20, 30, *channels)), _screen(2, (20, 30, *channels))
    grays = [to_gray(screen) if channels == (3,) else screen.reshape(20, 30) for screen in (older, newer)]
    gray = to_frame((older, newer), (8, 9), how)
    np.testing.assert_array_equal(gray, pool_and_resize(grays[0], grays[1], (8, 9), how))
    color = to_frame((older, newer), (3, 8, 9), how)
    assert (color.shape, color.flags.c_contiguous) == ((3, 8, 9), True)
    for index, channel in enumerate(color):
        of = [screen[..., index] if channels == (3,) else screen.reshape(20, 30) for screen in (older, newer)]
        # On 64-bit ARM OpenCV rounds three channels at once and one alone differently, by one level at most.
        np.testing.assert_allclose(channel, pool_and_resize(of[0].copy(), of[1].copy(), (8, 9), how), rtol=0, atol=1)
    one = to_frame(newer, (8, 9), how)
    np.testing.assert_array_equal(one, to_frame((newer, newer), (8, 9), how))


@pytest.mark.parametrize("screens", [(_screen(0), _screen(0, (84, 84))), (_screen(0),), (_screen(0),) * 3])
def test_a_pair_is_two_screens_of_one_shape(screens: tuple[Frame, Frame]) -> None:
    with pytest.raises(ValueError, match="expected two screens of equal shape, got"):
        to_frame(screens, (84, 84))


def test_to_frame_converts_size_and_colors() -> None:
    screen = _screen(9, (20, 30, 3))
    rgb = to_frame(screen, (3, 8, 9))
    assert (rgb.shape, rgb.dtype) == ((3, 8, 9), np.uint8)
    for channel, of in enumerate(rgb):
        np.testing.assert_array_equal(of, cv2.resize(screen[..., channel], (9, 8), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(to_frame(screen, (8, 9)), resize(to_gray(screen), (8, 9)))
    np.testing.assert_array_equal(to_frame(screen[..., :1], (8, 9)), resize(screen[..., 0].copy(), (8, 9)))
    for frame in (rgb, screen[..., 0]):
        assert to_frame(frame, frame.shape) is frame
    # A gray frame with three rows is not an RGB frame.
    assert to_frame(_screen(1, (3, 8)), (3, 8)).shape == (3, 8)
    for wrong in (screen.astype(np.int16), _screen(0, (20, 30, 4)), _screen(0, (20,)), _screen(0, (1, 20, 30, 3))):
        with pytest.raises(ValueError, match=r"expected a screen, uint8 \[H, W\]"):
            to_frame(wrong, (8, 9))


pushes = st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=30)


@given(stack=st.integers(1, 5), pushes=pushes)
def test_stack_copies_frames_from_a_reused_buffer(stack: int, pushes: list[tuple[int, bool]]) -> None:
    buffer = np.full((stack, 2, 3), 99, np.uint8)
    frames = FrameStack(stack, (2, 3), buffer)
    reused = np.zeros((2, 3), np.uint8)
    model: list[int] = []
    for i, (value, first) in enumerate(pushes):
        if first or i == 0:
            model = [0] * stack
        model = [*model[1:], value]
        reused[:] = value
        got = frames.push(reused, first=first or i == 0)
        reused[:] = 77
        assert got is buffer
        assert [set(frame.ravel().tolist()) for frame in got] == [{value} for value in model]


@pytest.mark.parametrize("frame", [np.zeros((3,), np.uint8), np.zeros((1, 3), np.uint8), np.zeros((2, 3), np.float32)])
def test_stack_rejects_frames_of_another_shape_or_dtype(frame: Frame) -> None:
    frames = FrameStack(4, (2, 3), np.zeros((4, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected a frame of uint8 \[2, 3\], got"):
        frames.push(frame, first=True)


@pytest.mark.parametrize("buffer", [np.zeros((3, 2, 3), np.uint8), np.zeros((4, 2, 3), np.float32)])
def test_stack_rejects_a_buffer_of_another_shape_or_dtype(buffer: Frame) -> None:
    with pytest.raises(ValueError, match=r"expected a stack buffer of uint8 \[4, 2, 3\], got"):
        FrameStack(4, (2, 3), buffer)


def test_stack_rejects_zero_frames() -> None:
    with pytest.raises(ValueError, match="a stack needs at least one frame, got 0"):
        FrameStack(0, (2, 3), np.zeros((0, 2, 3), np.uint8))


# --- gray levels -----------------------------------------------------------------------------------------------


def _exact_levels(count: int) -> list[Fraction]:
    return [Fraction(255 * level, count - 1) for level in range(count)]


def _levels(count: int) -> list[int]:
    return list(map(round, _exact_levels(count)))


@pytest.mark.parametrize("count", GRAY_LEVELS)
def test_each_byte_becomes_the_nearest_of_evenly_spaced_levels(count: int) -> None:
    levels = _levels(count)
    assert len(set(levels)) == count
    assert levels[0] == 0
    assert levels[-1] == 255
    expected = [round(min(_exact_levels(count), key=lambda level: abs(level - byte))) for byte in range(256)]
    every = np.arange(256, dtype=np.uint8)
    reduced = to_gray_levels(every, count)
    assert reduced.tolist() == expected
    for byte, level in enumerate(reduced.tolist()):  # a level is rounded, which may make two of them as near
        assert abs(level - byte) == min(abs(other - byte) for other in levels)
    assert every.tolist() == list(range(256))


@pytest.mark.parametrize("count", GRAY_LEVELS)
@pytest.mark.parametrize("shape", [(84, 84), (3, 25, 30), (7, 5, 3), (0, 4)])
def test_reducing_keeps_shape_and_dtype_and_does_nothing_twice(count: int, shape: tuple[int, ...]) -> None:
    frame = _screen(3, shape)
    reduced = to_gray_levels(frame, count)
    assert (reduced.shape, reduced.dtype, reduced.flags.c_contiguous) == (shape, np.uint8, True)
    assert set(reduced.ravel().tolist()) <= set(_levels(count))
    np.testing.assert_array_equal(to_gray_levels(reduced, count), reduced)
    for blank in (np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        np.testing.assert_array_equal(to_gray_levels(blank, count), blank)


def test_frames_are_reduced_in_place_and_into_out() -> None:
    frame = _screen(4, (3, 20, 20))
    expected, out = to_gray_levels(frame, 32), np.zeros_like(frame)
    assert to_gray_levels(frame, 32, out) is out
    np.testing.assert_array_equal(out, expected)
    assert to_gray_levels(frame, 32, frame) is frame
    np.testing.assert_array_equal(frame, expected)
    strided = _screen(5, (40, 20))[::2]
    expected = to_gray_levels(strided.copy(), 16)
    assert to_gray_levels(strided, 16, strided) is strided
    np.testing.assert_array_equal(strided, expected)


@pytest.mark.parametrize("count", [0, 1, 2, 8, 33, 128, 256])
def test_other_numbers_of_gray_levels_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} gray levels are not supported; choose one of 16, 32, 64"):
        to_gray_levels(_screen(0), count)


def test_only_bytes_are_reduced() -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 frame, got float32 \[4, 5\]"):
        to_gray_levels(np.zeros((4, 5), np.float32), 16)  # type: ignore[arg-type]
