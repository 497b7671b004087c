"""Tests of the byte ledger and the arena."""

import numpy as np
import pytest

from seer_runtime.replay.arena import Arena
from seer_runtime.system.ledger import BudgetError, Ledger, Line


def test_ledger_counts_current_and_peak_bytes_by_line() -> None:
    ledger = Ledger({Line.OBSERVATIONS: 1000})
    frames = ledger.allocate(Line.OBSERVATIONS, (10, 7), np.uint8)
    ledger.allocate(Line.WORKSPACE, 3, np.float64)
    assert ledger.held_bytes(Line.OBSERVATIONS) == frames.nbytes == 70
    ledger.release(Line.OBSERVATIONS, frames)
    ledger.allocate(Line.OBSERVATIONS, (5,), np.float32)
    assert ledger.held_bytes(Line.OBSERVATIONS) == 20
    assert ledger.peak_bytes(Line.OBSERVATIONS) == 70
    assert ledger.held_bytes(Line.WORKSPACE) == ledger.peak_bytes(Line.WORKSPACE) == 24
    assert ledger.held_bytes(Line.COLUMNS) == ledger.peak_bytes(Line.PRIORITIES) == 0


def test_allocate_returns_zeros_of_the_given_shape_and_dtype() -> None:
    array = Ledger({}).allocate(Line.COLUMNS, (3, 2), np.int16)
    assert (array.shape, array.dtype) == ((3, 2), np.int16)
    assert not array.any()


def test_allocations_may_reach_a_cap_but_not_exceed_it() -> None:
    ledger = Ledger({Line.WORKSPACE: 100})
    held = ledger.allocate(Line.WORKSPACE, 60, np.uint8)
    with pytest.raises(BudgetError, match="workspace: 41 more bytes on top of 60 would exceed the cap of 100"):
        ledger.allocate(Line.WORKSPACE, 41, np.uint8)
    assert ledger.held_bytes(Line.WORKSPACE) == ledger.peak_bytes(Line.WORKSPACE) == 60
    ledger.allocate(Line.WORKSPACE, 40, np.uint8)
    with pytest.raises(BudgetError):
        ledger.allocate(Line.WORKSPACE, 1, np.uint8)
    ledger.release(Line.WORKSPACE, held)
    ledger.allocate(Line.WORKSPACE, 15, np.float32)
    assert ledger.peak_bytes(Line.WORKSPACE) == 100


def test_a_line_without_a_cap_is_only_counted() -> None:
    ledger = Ledger({Line.WORKSPACE: 0})
    ledger.allocate(Line.COLUMNS, 10_000, np.uint8)
    assert ledger.cap_bytes(Line.WORKSPACE) == 0
    assert ledger.cap_bytes(Line.COLUMNS) is None
    with pytest.raises(BudgetError):
        ledger.allocate(Line.WORKSPACE, 1, np.uint8)


def test_a_refused_allocation_uses_no_memory() -> None:
    ledger = Ledger({Line.OBSERVATIONS: 10})
    with pytest.raises(BudgetError):  # 2**60 bytes: numpy itself would raise MemoryError
        ledger.allocate(Line.OBSERVATIONS, (2**30, 2**30), np.uint8)


def test_all_or_nothing_undoes_the_counts_after_a_failure() -> None:
    ledger = Ledger({Line.WORKSPACE: 100})
    ledger.allocate(Line.WORKSPACE, 10, np.uint8)

    def allocate_three() -> None:
        for _ in range(3):
            ledger.allocate(Line.COLUMNS, 7, np.uint8)
            ledger.allocate(Line.WORKSPACE, 40, np.uint8)

    with pytest.raises(BudgetError), ledger.all_or_nothing():
        allocate_three()
    assert (ledger.held_bytes(Line.WORKSPACE), ledger.held_bytes(Line.COLUMNS)) == (10, 0)
    with ledger.all_or_nothing():
        ledger.allocate(Line.WORKSPACE, 90, np.uint8)
    assert ledger.held_bytes(Line.WORKSPACE) == ledger.peak_bytes(Line.WORKSPACE) == 100


def test_release_rejects_more_bytes_than_were_allocated() -> None:
    ledger = Ledger({})
    array = ledger.allocate(Line.WORKSPACE, 8, np.uint8)
    ledger.release(Line.WORKSPACE, array)
    with pytest.raises(ValueError, match="workspace: more bytes released"):
        ledger.release(Line.WORKSPACE, array)


def test_arena_is_one_allocation_and_its_rows_are_views() -> None:
    ledger = Ledger({Line.OBSERVATIONS: 1003})
    arena = Arena(1003, ledger)
    assert arena.size_bytes == ledger.held_bytes(Line.OBSERVATIONS) == 1003
    for row_bytes, count in ((10, 100), (1003, 1), (502, 1), (1, 1003), (1004, 0)):
        rows = arena.rows(row_bytes)
        assert rows.shape == (count, row_bytes)
        rows[...] = 9
        assert (arena.bytes[: count * row_bytes] == 9).all()
        assert not arena.bytes[count * row_bytes :].any()
        arena.bytes[:] = 0
    assert ledger.peak_bytes(Line.OBSERVATIONS) == 1003


def test_an_arena_above_the_cap_is_refused() -> None:
    with pytest.raises(BudgetError, match="observations"):
        Arena(1001, Ledger({Line.OBSERVATIONS: 1000}))
