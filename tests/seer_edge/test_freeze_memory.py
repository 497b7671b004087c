"""The RSS figures of a freeze are of the conversion alone."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import seer_edge.training.freeze
from seer_runtime.replay.convert import Conversion
from tests.seer_edge.freeze_rig import Rig

pytestmark = pytest.mark.integration

BALLAST_BYTES = 200_000_000


def _with_ballast(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with memory held for some milliseconds before it."""

    def heavy(*args: Any, **given: Any) -> Any:
        ballast = np.ones(BALLAST_BYTES, np.uint8)
        time.sleep(0.02)
        del ballast
        return function(*args, **given)

    return heavy


def _in_the_pending_update(run: Rig, patch: pytest.MonkeyPatch) -> None:
    assert run.session.updates.pending is not None
    patch.setattr(run.session.agent, "update", _with_ballast(run.session.agent.update))


def _in_the_export(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seer_edge.training.freeze, "encoder_graph", _with_ballast(seer_edge.training.freeze.encoder_graph))


def _in_the_conversion(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Conversion, "run", _with_ballast(Conversion.run))


@pytest.mark.parametrize(
    ("place", "seen"), [(_in_the_pending_update, False), (_in_the_export, False), (_in_the_conversion, True)]
)
def test_the_rss_peak_of_a_freeze_is_that_of_the_conversion(
    build_rig: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Rig, pytest.MonkeyPatch], None],
    seen: bool,
) -> None:
    run = build_rig(learning_starts=20, pipeline=True)
    run.steps(100)
    updates = run.session.agent.updates
    place(run, monkeypatch)
    report = run.freeze()
    assert run.session.agent.updates == updates + 1
    assert (report.rss_peak_bytes - report.rss_before_bytes > BALLAST_BYTES // 2) == seen
