"""The source of an import (`--from`): a run's folder or a bundle. Imports no torch.

A bundle may come from anywhere. Whatever its content raises is reported as BadInputError, in one line.
"""

import contextlib
import dataclasses
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import StoreName
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.runs import checkpoint
from seer_edge.runs.run_folder import bundle_hint
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.policy import bundle
from seer_runtime.policy.bundle import Bundle, open_bundle
from seer_runtime.policy.preprocess import Resize
from seer_runtime.replay.blocks import ABOUT
from seer_runtime.replay.codecs import LATENT_CODECS
from seer_runtime.replay.storage import Layout
from seer_runtime.system.manifest_reader import ManifestReader

WANTED = "the --run-dir of a run, or a bundle"
"""What `--from` accepts, for messages."""


def is_bundle(source: str | Path) -> bool:
    """Return whether to read `source` as a bundle: it exists and is not a folder."""
    mode = _mode(source)
    return mode is not None and not stat.S_ISDIR(mode)


def exists(source: str) -> bool:
    """Return whether there is a file or folder at `source`."""
    return _mode(source) is not None


def _mode(source: str | Path) -> int | None:
    try:
        return Path(source).stat().st_mode
    except OSError:  # also for a name that is too long
        return None


@contextlib.contextmanager
def open_source(source: str) -> Iterator[Bundle]:
    """Open the bundle `source` and check its manifest.

    Raises BadInputError if it is not a bundle, and for whatever its content raises in the code inside.
    """
    with reading_source(source), open_bundle(Path(source)) as opened:
        try:
            _check_manifest(opened)
        except ValueError as error:
            raise ValueError(f"its manifest does not match this release ({one_line(error)})") from error
        yield opened


@contextlib.contextmanager
def reading_source(source: str) -> Iterator[None]:
    """Report whatever the content of `source` raises in the code inside as BadInputError."""
    try:
        yield
    except (durable.CorruptFileError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = one_line(error)
        if isinstance(error, durable.CorruptFileError):
            reason = error.reason
        elif not isinstance(error, ValueError):  # Python's own message, which does not name the bundle
            reason = f"it is not of this release ({reason})"
        hint = bundle_hint(Path(source), WANTED) if is_bundle(source) else f"give {WANTED}"
        raise BadInputError(f"--from {source}: {reason}; {hint}") from error
    except OSError as error:
        raise BadInputError(f"--from {source}: cannot be read ({error.strerror}); give another") from error


def _check_manifest(opened: Bundle) -> None:
    """Raise ValueError, naming the field, if a field that an import reads is missing or out of range."""
    fields = ManifestReader(opened.about)
    fields.choice("algo", ALGORITHMS)
    fields.choice("encoder.encoder", ENCODERS)
    fields.count("provenance.timestep")
    if opened.holds(bundle.LEARNER):
        fields.count("learner.values.updates")
    if opened.holds(bundle.REPLAY):
        if LATENT_CODECS[fields.choice("replay.values.codec", LATENT_CODECS)].calibrated:
            for name in ("clipped", "encoded"):
                fields.count(f"replay.values.codec_counts.{name}")
        fields.number("replay.values.largest_priority", 0, sys.float_info.max)
        layout = [field.name for field in dataclasses.fields(Layout)]
        fields.record("replay.values.layout", layout)
        for name in layout:
            fields.count(f"replay.values.layout.{name}")
        fields.record("replay.values.rng.state")
        if store_of(opened) == "compact":
            fields.record("replay.values.blocks", ABOUT)
            for name in ABOUT:
                fields.count(f"replay.values.blocks.{name}")


def member_values(opened: Bundle, member: str) -> dict[str, Any]:
    """Return the plain values that the manifest holds for the `learner` or the `replay`."""
    return dict(opened.about[member]["values"])


def store_of(opened: Bundle) -> StoreName:
    """Return the --store of the run that the bundle's replay rows come from."""
    return "compact" if "blocks" in opened.about["replay"]["values"] else "paper"


def bundle_identity(opened: Bundle) -> dict[str, Any]:
    """Return the bundle's `checkpoint.encoder_identity`, as the manifest states it."""
    return dict(opened.about["encoder"])


def bundle_flags(source: str) -> dict[str, Any]:
    """Return the settings that the bundle's encoder requires: `encoder`, `color`, and `resolution` for square frames.

    Raises BadInputError.
    """
    with open_source(source) as opened:
        *channels, height, width = opened.spec.frame_shape
        return {
            "encoder": bundle_identity(opened).get("encoder"),
            "color": "rgb" if channels else "gray",
            "resolution": width if height == width else None,
        }


@dataclass(frozen=True)
class SourceFrames:
    """How the frames that an encoder was trained on were made from screens."""

    resize: Resize
    gray_levels: int | None


def frames_of(source: str) -> SourceFrames | None:
    """Return how the frames that the encoder of a run or bundle was trained on were made.

    Returns None for a run that cannot be read; `import_source` reports why. Raises BadInputError for a bundle that
    cannot be read.
    """
    if is_bundle(source):
        with open_source(source) as opened:
            return SourceFrames(opened.spec.resize, opened.spec.gray_levels)
    with contextlib.suppress(BadInputError):
        config = checkpoint.newest(Path(source) / "checkpoints").config
        return SourceFrames(config.resize, config.gray_levels)
    return None
