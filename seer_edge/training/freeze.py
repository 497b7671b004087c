"""The freeze: pixels become latents, once, in place (design, section 4; Algorithm 1, lines 12 to 17).

Nothing changes before the commit point; a failure up to there is a `FreezeRefusedError` and the run goes on from
pixels. A failure after it is a `RunStoppedError`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.errors import RunStoppedError
from seer_edge.networks.graph import encoder_graph
from seer_edge.training.codec_choice import CALIBRATION_ROWS, choose_codec, real_rows, without_blank_frames
from seer_edge.training.session import Session, latent_perception
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.policy.perception import LatentPerception
from seer_runtime.replay.replay import ReplayConversion
from seer_runtime.system.process import RssWatch, settle

PARITY_ROWS = 256
PARITY_TOLERANCE = 1e-4


class FreezeRefusedError(Exception):
    """The freeze cannot be made; nothing was changed."""


@dataclass(frozen=True)
class FreezeReport:
    """The `freeze` entry of `summary.json`."""

    timestep: int
    rows: int
    seconds: float
    rss_before_bytes: int
    rss_peak_bytes: int
    rss_after_bytes: int
    onnx_max_abs_error: float | None  # None where torch goes on encoding
    codec_errors: dict[str, float] | None = None  # under --latent-codec auto, of each that was tried

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


Save = Callable[[], object]
"""Publishes a generation of the session as it stands."""


def freeze(session: Session, encoder_path: Path, save: Save) -> FreezeReport:
    """Freeze the encoder and convert the replay. Raises FreezeRefusedError, or RunStoppedError once committed."""
    begin = time.perf_counter()
    with RssWatch() as rss:
        session.catch_up()  # a batch that waits is of frames
        settle()  # what learning from frames used last makes room for what comes
        plan, codec_errors = _with_codec(session)
        rows, error = _freeze(session, plan, encoder_path, save)
        settle()
    return FreezeReport(
        timestep=session.timestep,
        rows=rows,
        seconds=time.perf_counter() - begin,
        rss_before_bytes=rss.before_bytes,
        rss_peak_bytes=rss.peak_bytes,
        rss_after_bytes=rss.after_bytes,
        onnx_max_abs_error=error,
        codec_errors=codec_errors,
    )


def _with_codec(session: Session) -> tuple[BytePlan, dict[str, float] | None]:
    """The session's plan with a codec that, where it is to be, is chosen now; and the errors that it was chosen by."""
    if not session.plan.choices:
        return session.plan, None
    try:
        return choose_codec(session)
    except Exception as failure:
        raise FreezeRefusedError(f"no freeze at step {session.timestep}: {one_line(failure)}") from failure


def _freeze(session: Session, plan: BytePlan, encoder_path: Path, save: Save) -> tuple[int, float | None]:
    """Rows carried over, and the largest difference between ONNX Runtime and torch."""
    if not plan.latent_replay:
        _freeze_layers(session, plan, save)
        return session.replay.store.rows, None
    prepared = _prepare(session, plan, encoder_path, save)
    try:
        return _commit(session, prepared), prepared.max_abs_error
    except Exception as failure:
        raise RunStoppedError(f"the conversion at step {session.timestep} failed: {one_line(failure)}") from failure


def _freeze_layers(session: Session, plan: BytePlan, save: Save) -> None:
    """Only the lowest layers are frozen, and their latents are larger than frames: the replay stays as it is."""
    try:
        save()
    except OSError as failure:
        raise FreezeRefusedError(f"no freeze at step {session.timestep}: {one_line(failure)}") from failure
    session.plan = plan
    session.agent.freeze_encoder(reads_latents=False)


@dataclass(frozen=True)
class _Prepared:
    """What the commit needs, and cannot fail to get any more."""

    plan: BytePlan
    graph: bytes
    perception: LatentPerception
    conversion: ReplayConversion
    max_abs_error: float


def _prepare(session: Session, plan: BytePlan, encoder_path: Path, save: Save) -> _Prepared:
    """Steps 1 and 2: export, compare, calibrate, checkpoint. Leaves no trace of an attempt that failed."""
    agent, replay = session.agent, session.replay
    with contextlib.ExitStack() as undo:
        try:
            graph = encoder_graph(plan.encoder, agent.encoder_weights())
            undo.callback(_remove, encoder_path)
            durable.write_atomic(encoder_path, graph)
            encoder = OnnxEncoder(
                graph, threads=session.config.threads, ledger=session.ledger, device=session.config.device
            )
            undo.callback(encoder.release)
            error = _compare(session, encoder)
            codec = plan.latent_codec(session.ledger)
            undo.callback(codec.release)
            codec.calibrate(_latents_to_calibrate_on(session, encoder))
            perception = latent_perception(
                plan, session.perception.stack, encoder, session.ledger, views_seed=session.seeds.views
            )
            undo.callback(perception.release)
            conversion = replay.reserve(codec)
            undo.callback(conversion.cancel)
            save()
        except Exception as failure:
            raise FreezeRefusedError(f"no freeze at step {session.timestep}: {one_line(failure)}") from failure
        undo.pop_all()
    return _Prepared(plan, graph, perception, conversion, error)


def _remove(path: Path) -> None:
    # A disk that refused the write may refuse this too; the refusal is what has to be heard.
    with contextlib.suppress(OSError):
        durable.remove(path)


def _commit(session: Session, prepared: _Prepared) -> int:
    """Steps 3 to 5; returns the rows carried over."""
    session.plan = prepared.plan
    session.agent.freeze_encoder(reads_latents=True)
    session.graph = prepared.graph
    rows = prepared.conversion.run(prepared.perception.encoder)
    session.perception.release()
    session.perception = prepared.perception
    session.observed = prepared.perception.current()
    return rows


def _latents_to_calibrate_on(session: Session, encoder: OnnxEncoder) -> Iterator[NDArray[np.float32]]:
    """Of rows with S real frames, where there are any.

    The blank frames before a scene's first give latents far from all others, which would make every grid coarse.
    """
    ids = real_rows(session, CALIBRATION_ROWS)
    full = without_blank_frames(session, ids)
    for stacks in session.replay.observations(full if len(full) else ids).slices(at_most=MAX_BATCH):
        yield encoder(stacks)


def _compare(session: Session, encoder: OnnxEncoder) -> float:
    """The largest difference of a latent from torch's. Raises FreezeRefusedError where it, or Q, is too large."""
    agent, largest = session.agent, 0.0
    for stacks in session.replay.observations(real_rows(session, PARITY_ROWS)).slices(at_most=MAX_BATCH):
        expected = agent.encode(stacks)
        latents = torch.from_numpy(encoder(stacks)).to(expected.device)
        largest = max(largest, _difference("latents", latents, expected))
        with torch.no_grad():
            _difference("outputs", agent.outputs(latents), agent.outputs(expected))
    return largest


def _difference(what: str, got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((got - expected).abs().max())
    allowed = PARITY_TOLERANCE * max(1.0, float(expected.abs().max()))
    # Written so that a NaN is refused too.
    if not difference <= allowed:
        raise FreezeRefusedError(f"{what} of ONNX Runtime and torch differ by {difference:.3g}, allowed {allowed:.3g}")
    return difference
