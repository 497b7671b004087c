"""Tests of the sum tree against plain arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_runtime.replay.sumtree import SumTree
from seer_runtime.system.ledger import Ledger, Line

CAPACITIES = [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 100]


def _naive_find(priorities: np.ndarray, prefix_sum: float) -> int:
    """Return the first slot at which the running sum exceeds `prefix_sum`."""
    running = 0.0
    for slot, priority in enumerate(priorities):
        running += priority
        if prefix_sum < running:
            return slot
    raise AssertionError("beyond the total")


@settings(max_examples=150, derandomize=True)
@given(data=st.data(), capacity=st.sampled_from(CAPACITIES))
def test_set_and_find_agree_with_a_plain_array(data: st.DataObject, capacity: int) -> None:
    tree, naive = SumTree(capacity, Ledger({})), np.zeros(capacity)
    slot_and_priority = st.tuples(st.integers(0, capacity - 1), st.integers(0, 9))
    for pairs in data.draw(st.lists(st.lists(slot_and_priority, max_size=20), max_size=6)):
        tree.set(np.array([slot for slot, _ in pairs], np.int64), np.array([p for _, p in pairs], np.float64))
        for slot, priority in pairs:  # the last priority of a repeated slot counts
            naive[slot] = priority
        np.testing.assert_array_equal(tree.get(np.arange(capacity)), naive)
        assert tree.total == naive.sum()
        # Integer priorities make every boundary exact, so test on each boundary and between.
        wanted = np.arange(0.0, naive.sum(), 0.5)
        assert tree.find(wanted).tolist() == [_naive_find(naive, prefix_sum) for prefix_sum in wanted]


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_total_accumulates_no_rounding_error(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    tree, naive = SumTree(capacity, Ledger({})), np.zeros(capacity)
    for _ in range(300):
        slots = rng.integers(0, capacity, 8)
        naive[slots] = priorities = 10.0 ** rng.uniform(-12, 12, 8)
        tree.set(slots, priorities)
    tree.set(np.arange(capacity), 0.25)
    assert tree.total == 0.25 * capacity


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_slot_of_priority_zero_is_never_found(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    for _ in range(50):
        tree = SumTree(capacity, Ledger({}))
        priorities = 10.0 ** rng.uniform(-9, 9, capacity) * (rng.random(capacity) < 0.3)
        priorities[rng.integers(capacity)] = 1.0
        tree.set(np.arange(capacity), priorities)
        # The total itself is not a valid prefix sum, but rounding in i * total / count can produce it.
        sums = np.concatenate([rng.random(200), [0.0, 1.0, np.nextafter(1.0, 0.0)]]) * tree.total
        assert (priorities[tree.find(sums)] > 0).all()


def test_set_broadcasts_one_priority_to_all_slots() -> None:
    tree = SumTree(5, Ledger({}))
    tree.set(np.arange(5), 2.0)
    assert tree.total == 10.0
    assert tree.find(np.array([0.0, 1.99, 2.0, 9.99])).tolist() == [0, 0, 1, 4]


def test_tree_is_counted_on_the_priorities_line() -> None:
    ledger = Ledger({})
    tree = SumTree(1000, ledger)
    assert ledger.held_bytes(Line.PRIORITIES) == tree.nodes.nbytes == 2 * 1024 * 8
    tree.release()
    assert ledger.held_bytes(Line.PRIORITIES) == 0
