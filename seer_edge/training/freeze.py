"""The freeze: the replay changes from frames to latents once, in place (Algorithm 1, lines 12 to 17).

1. Export the encoder as an ONNX graph, open it in ONNX Runtime and compare it with torch on rows of the replay.
2. Calibrate the codec, reserve all memory that the conversion needs, and publish a checkpoint.
3. Freeze the encoder and convert the replay in place, chunk by chunk (`Session.switch_to_latents`).

A failure in steps 1 and 2 is a `FreezeRefusedError`: nothing has changed, and the run continues on frames. A failure in
step 3 is a `RunStoppedError`: the run resumes from the checkpoint of step 2.
"""

import contextlib
import dataclasses
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
from seer_edge.training.codec_choice import CALIBRATION_ROWS, choose_codec
from seer_edge.training.components import LatentPhase, latent_perception
from seer_edge.training.replay_rows import real_rows, without_blank_frames
from seer_edge.training.session import Session
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.replay.convert import Progress
from seer_runtime.system.process import RssWatch, settle

PARITY_ROWS = 256
PARITY_TOLERANCE = 1e-4


class FreezeRefusedError(Exception):
    """The freeze is not possible; nothing has changed."""


@dataclass(frozen=True)
class FreezeReport:
    """The `freeze` entry of `summary.json`.

    `seconds` are of the whole freeze. The figures of memory are of the conversion alone, from just before it to just
    after, sampled every millisecond.
    """

    timestep: int
    rows: int  # rows that the replay holds after it
    seconds: float
    rss_before_bytes: int
    rss_peak_bytes: int
    rss_after_bytes: int
    onnx_max_abs_error: float | None  # None if torch continues to encode the frames
    codec_errors: dict[str, float] | None = None  # of each codec that --latent-codec auto tried
    anon_peak_bytes: int | None = None  # None in the checkpoints of versions that did not measure it

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


Save = Callable[[], object]
"""Publishes a checkpoint of the session."""


def freeze(session: Session, encoder_path: Path, save: Save, progress: Progress | None = None) -> FreezeReport:
    """Freeze the encoder, write it to `encoder_path` and convert the replay. `progress` is called after each chunk.

    Raises FreezeRefusedError before the conversion begins, RunStoppedError from then on.
    """
    begin = time.perf_counter()
    session.flush_updates()  # the pending batch is of frames
    settle()  # release what updates from frames used last
    plan, codec_errors = _choose_plan(session)
    if plan.latent_replay:
        latents, error = _prepare(session, plan, encoder_path, save)
        rows, rss = _convert(session, plan, dataclasses.replace(latents, progress=progress))
    else:
        rows, error, rss = session.replay.store.rows, None, _freeze_layers(session, plan, save)
    return FreezeReport(
        timestep=session.timestep,
        rows=rows,
        seconds=time.perf_counter() - begin,
        rss_before_bytes=rss.before_bytes,
        rss_peak_bytes=rss.peak_bytes,
        rss_after_bytes=rss.after_bytes,
        onnx_max_abs_error=error,
        codec_errors=codec_errors,
        anon_peak_bytes=rss.anon_peak_bytes,
    )


def _choose_plan(session: Session) -> tuple[BytePlan, dict[str, float] | None]:
    """Return the session's plan with its codec chosen, and the errors of the codecs that were tried, if any were."""
    if not session.plan.choices:
        return session.plan, None
    try:
        return choose_codec(session)
    except Exception as failure:
        raise _refusal(session, failure) from failure


def _refusal(session: Session, failure: Exception) -> FreezeRefusedError:
    return FreezeRefusedError(f"no freeze at step {session.timestep}: {one_line(failure)}")


def _freeze_layers(session: Session, plan: BytePlan, save: Save) -> RssWatch:
    """Freeze only the lowest layers. Their latents are larger than frames, so the replay keeps its frames."""
    try:
        save()
    except OSError as failure:
        raise _refusal(session, failure) from failure
    with RssWatch() as rss:
        session.freeze_layers(plan)
        settle()
    return rss


def _prepare(session: Session, plan: BytePlan, encoder_path: Path, save: Save) -> tuple[LatentPhase, float]:
    """Do steps 1 and 2; return what the conversion needs, and the largest difference from torch.

    A failed attempt leaves nothing behind.
    """
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
            codec.calibrate(_calibration_latents(session, encoder))
            perception = latent_perception(
                plan, session.perception.stack, encoder, session.ledger, views_seed=session.seeds.views
            )
            undo.callback(perception.release)
            conversion = replay.reserve(codec)
            undo.callback(conversion.cancel)
            save()
        except Exception as failure:
            raise _refusal(session, failure) from failure
        undo.pop_all()
    return LatentPhase(graph, perception, conversion), error


def _remove(path: Path) -> None:
    # A disk that refused the write may refuse the removal too. The refusal is the error to report.
    with contextlib.suppress(OSError):
        durable.remove(path)


def _convert(session: Session, plan: BytePlan, latents: LatentPhase) -> tuple[int, RssWatch]:
    """Do step 3; return the rows kept, and the RSS from just before the conversion to just after."""
    try:
        with RssWatch() as rss:
            rows = session.switch_to_latents(plan, latents)
            settle()
    except Exception as failure:
        raise RunStoppedError(f"the conversion at step {session.timestep} failed: {one_line(failure)}") from failure
    return rows, rss


def _calibration_latents(session: Session, encoder: OnnxEncoder) -> Iterator[NDArray[np.float32]]:
    """Yield latents of rows whose stack has no blank frame, or of any rows if there are none.

    The stacks at the start of a scene hold blank frames. Their latents are far from all others and would make every
    quantization range too wide.
    """
    ids = real_rows(session.replay, CALIBRATION_ROWS)
    full = without_blank_frames(session.replay, ids)
    for stacks in session.replay.observations(full if len(full) else ids).slices(at_most=MAX_BATCH):
        yield encoder(stacks)


def _compare(session: Session, encoder: OnnxEncoder) -> float:
    """Return the largest difference of a latent from torch's.

    Raises FreezeRefusedError if latents or head outputs differ by more than the tolerance.
    """
    agent, largest = session.agent, 0.0
    for stacks in session.replay.observations(real_rows(session.replay, PARITY_ROWS)).slices(at_most=MAX_BATCH):
        expected = agent.encode(stacks)
        latents = torch.from_numpy(encoder(stacks)).to(expected.device)
        largest = max(largest, _difference("latents", latents, expected))
        with torch.no_grad():
            _difference("outputs", agent.outputs(latents), agent.outputs(expected))
    return largest


def _difference(name: str, got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((got - expected).abs().max())
    allowed = PARITY_TOLERANCE * max(1.0, float(expected.abs().max()))
    # Negated, so that NaN is refused too.
    if not difference <= allowed:
        raise FreezeRefusedError(f"{name} of ONNX Runtime and torch differ by {difference:.3g}, allowed {allowed:.3g}")
    return difference
