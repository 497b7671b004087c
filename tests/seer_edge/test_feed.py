"""The feed against a list: order, copies, and what happens if there is no room."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer_edge.envs import Frame, Step
from seer_edge.realtime.feed import Began, ControlEndedError, Feed, Stepped
from seer_runtime.system.ledger import Ledger, Line

SHAPE = (6, 6)
FRAMES = 8


def _frame(value: int) -> Frame:
    return np.full(SHAPE, value % 256, np.uint8)


def _stepped(value: int) -> Stepped:
    return Stepped(value, Step(_frame(value), float(value), False, False, None))


def _value(event: Began | Stepped) -> int:
    frame = event.frame if isinstance(event, Began) else event.step.frame
    assert (frame == frame.flat[0]).all()
    return int(frame.flat[0])


@given(st.lists(st.sampled_from(["begin", "step", "step", "step", "take"]), max_size=60))
def test_it_is_a_queue_that_drops_whole_ends_of_episodes(calls: list[str]) -> None:
    feed = Feed(SHAPE, Ledger({}), FRAMES)
    held: list[int] = []
    steps = 0
    gap, dropped = False, 0
    for number, call in enumerate(calls):
        if call == "take":
            if held:
                event = feed.take()
                assert _value(event) == held.pop(0)
                steps -= isinstance(event, Stepped)
            continue
        kept = len(held) < feed.capacity and (call == "begin" or not gap)
        assert feed.put(Began(_frame(number), True) if call == "begin" else _stepped(number)) == kept
        gap = not kept
        dropped += not kept and call == "step"
        held += [number] * kept
        steps += kept and call == "step"
        assert (feed.waiting, feed.gap, feed.dropped) == (steps, gap, dropped)
    assert [_value(feed.take()) for _ in held] == held


def test_a_taken_frame_is_not_overwritten_until_the_next_take() -> None:
    feed = Feed(SHAPE, Ledger({}), FRAMES)
    feed.put(Began(_frame(1), True))
    taken = feed.take()
    for value in range(2, 2 + 3 * feed.capacity):
        feed.put(_stepped(value))
    assert _value(taken) == 1
    assert _value(feed.take()) == 2


def test_the_caller_may_change_a_frame_that_it_has_put() -> None:
    feed, frame = Feed(SHAPE, Ledger({}), FRAMES), _frame(7)
    feed.put(Began(frame, True))
    frame[...] = 9
    assert _value(feed.take()) == 7


def test_its_frames_are_counted_as_workspace() -> None:
    ledger = Ledger({})
    feed = Feed((84, 84), ledger, 300)
    assert ledger.held_bytes(Line.WORKSPACE) == 300 * 84**2
    assert feed.capacity == 299


def test_take_waits_for_an_event() -> None:
    feed = Feed(SHAPE, Ledger({}), FRAMES)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(_value(feed.take())))
    thread.start()
    feed.put(_stepped(5))
    thread.join(30)
    assert taken == [5]


@pytest.mark.parametrize("error", [None, ValueError("the camera is gone")])
def test_the_end_comes_after_all_pending_steps(error: Exception | None) -> None:
    feed = Feed(SHAPE, Ledger({}), FRAMES)
    feed.put(_stepped(5))
    feed.end(error)
    assert _value(feed.take()) == 5
    for _ in range(2):
        with pytest.raises(ControlEndedError if error is None else ValueError):
            feed.take()
