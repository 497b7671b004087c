"""Measure the encoder of one run at all of its snapshots, on one probe of observations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.analysis.attention import attention_maps
from seer_edge.analysis.latents import LatentStatistics, latent_statistics
from seer_edge.analysis.layers import SnapshotEncoder, layer_names
from seer_edge.analysis.similarity import JointMoments
from seer_edge.networks.spec import EncoderSpec
from seer_edge.runs.snapshots import Weights

BATCH = 32
ROWS_MAX = 30_000
"""About as many rows of a convolution are compared if it has more. They are of all observations and positions."""
SHOWN_OBSERVATIONS, SHOWN_SNAPSHOTS = 6, 6
"""Columns and rows of a picture of attention maps."""

Progress = Callable[[str, int, int], object]
"""Called with what is done, how much of it, and of how much."""


@dataclass(frozen=True)
class Probe:
    """Observations of one run.

    Attributes:
        stacks: uint8 `[rows, C, h, w]`, as the encoder sees them.
        filled: `[rows]`, whether each frame of the stack was seen, none of them blank.
        channels: channels of one frame, 1 or 3. The newest frame is the last.

    """

    stacks: NDArray[np.uint8]
    filled: NDArray[np.bool_]
    channels: int = 1

    @property
    def shown(self) -> NDArray[np.intp]:
        """The observations in pictures, evenly spaced among those with a full stack."""
        usable = np.flatnonzero(self.filled) if self.filled.any() else np.arange(len(self.filled))
        places = np.linspace(0, len(usable) - 1, min(SHOWN_OBSERVATIONS, len(usable)))
        return usable[places.round().astype(np.intp)]

    def frame(self, row: int) -> NDArray[np.uint8]:
        """Return the newest frame of an observation, `[h, w]` or `[h, w, 3]`."""
        newest = self.stacks[row, -self.channels :]
        return newest[0] if self.channels == 1 else np.moveaxis(newest, 0, -1)


@dataclass(frozen=True)
class Similarity:
    """How similar a layer is to itself at a later step, on the same observations."""

    layer: str
    step: int
    later: int
    rows: int  # that were compared
    svcca: float
    cka: float


@dataclass(frozen=True)
class AttentionChange:
    """Distance of a layer's attention maps from those of the last snapshot.

    It is the total variation distance, half the sum of absolute differences, mean over observations: 0 to 1.
    """

    layer: str
    step: int
    distance: float


@dataclass
class Measured:
    """Everything that was measured of one run.

    Attributes:
        steps: of the snapshots, ascending.
        layers: names of the layers with weights, bottom first.
        similarities: of each layer, for each pair of snapshots.
        changes: of each convolutional layer and each snapshot.
        latents: of each snapshot.
        maps: attention maps `[shown snapshots, shown observations, H, W]` of each convolutional layer.
        shown_steps: the steps of the maps.

    """

    steps: tuple[int, ...]
    layers: tuple[str, ...]
    similarities: list[Similarity] = field(default_factory=list)
    changes: list[AttentionChange] = field(default_factory=list)
    latents: list[LatentStatistics] = field(default_factory=list)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    shown_steps: tuple[int, ...] = ()


def pairs_of(steps: Sequence[int], apart: int) -> list[tuple[int, int]]:
    """Return each step with the first one that is at least `apart` steps later, where there is one."""
    later = ((step, next((other for other in steps if other - step >= apart), None)) for step in steps)
    return [(step, other) for step, other in later if other is not None]


def needed_bytes(spec: EncoderSpec, snapshots: int, rows: int) -> int:
    """Return about how many bytes `measure` and its probe take, beside Python and PyTorch."""
    maps = BATCH * (spec.map_elements + spec.networks * (spec.features or 0))
    latents = rows * math.prod(spec.latent_shape)
    weights = sum(map(math.prod, spec.weight_shapes.values()))
    # The outputs of two snapshots, and float64 copies of two layers of at most all maps.
    return rows * math.prod(spec.input_shape) + 4 * (snapshots * weights + 2 * latents + 6 * maps)


def measure(
    spec: EncoderSpec, snapshots: Mapping[int, Weights], probe: Probe, pairs: Sequence[tuple[int, int]], done: Progress
) -> Measured:
    """Measure the snapshots of a run. `pairs` are the steps to compare; `done` is called after each batch."""
    steps = tuple(sorted(snapshots))
    encoders = {step: SnapshotEncoder(spec, snapshots[step]) for step in steps}
    places = np.linspace(0, len(steps) - 1, min(SHOWN_SNAPSHOTS, len(steps))).round().astype(int)
    measured = Measured(steps, layer_names(spec), shown_steps=tuple(steps[place] for place in places))
    _measure_layers(measured, encoders, probe, pairs, done)
    for number, step in enumerate(steps, 1):
        pieces = [encoders[step].latents(probe.stacks[part]) for part in _batches(len(probe.stacks))]
        measured.latents.append(latent_statistics(step, np.concatenate(pieces), probe.filled))
        done("latents", number, len(steps))
    _collect_shown(measured, encoders, probe)
    return measured


def _batches(rows: int) -> Iterator[slice]:
    for start in range(0, rows, BATCH):
        yield slice(start, min(start + BATCH, rows))


def _measure_layers(
    measured: Measured,
    encoders: Mapping[int, SnapshotEncoder],
    probe: Probe,
    pairs: Sequence[tuple[int, int]],
    done: Progress,
) -> None:
    """Add similarities and changes of attention. The outputs of a batch are held only while a pair needs them."""
    rows = len(probe.stacks)
    moments: dict[tuple[str, int, int], JointMoments] = {}
    distances: dict[tuple[str, int], float] = {}
    for part in _batches(rows):
        held: dict[int, dict[str, NDArray[Any]]] = {}
        attention: dict[tuple[str, int], NDArray[np.float32]] = {}
        for step in measured.steps:
            outputs = encoders[step].outputs(probe.stacks[part])
            attention |= {(name, step): attention_maps(maps) for name, maps in outputs.items() if maps.ndim == 4}
            held[step] = {name: neurons(values, rows, part.start) for name, values in outputs.items()}
            for earlier, later in pairs:
                if later == step:
                    for name in held[step]:
                        _add(moments, (name, earlier, later), held[earlier][name], held[later][name])
            needed = {earlier for earlier, later in pairs if earlier <= step < later}
            held = {kept: values for kept, values in held.items() if kept in needed}
        for (name, step), maps in attention.items():
            distance = np.abs(maps - attention[name, measured.steps[-1]]).sum(dtype=np.float64) / 2
            distances[name, step] = distances.get((name, step), 0.0) + float(distance)
        done("layers", part.stop, rows)
    measured.similarities += [
        Similarity(name, step, later, joint.rows, joint.svcca(), joint.linear_cka())
        for (name, step, later), joint in moments.items()
    ]
    measured.changes += [AttentionChange(name, step, total / rows) for (name, step), total in distances.items()]


def _add(
    moments: dict[tuple[str, int, int], JointMoments],
    key: tuple[str, int, int],
    first: NDArray[Any],
    second: NDArray[Any],
) -> None:
    if not len(first):  # no row of this batch was kept
        return
    if key in moments:
        moments[key].add(first, second)
    else:
        moments[key] = JointMoments.of(first, second)


def neurons(outputs: NDArray[Any], observations: int, first: int) -> NDArray[Any]:
    """Return the outputs of a layer as a matrix `[rows, neurons]`.

    The neurons of a convolution are its channels, and each position of each observation is a row. Where all
    `observations` have more than `ROWS_MAX` positions, every s-th row is kept, for an s that visits all positions
    equally often. `first` is the number of the first observation of `outputs` among them.
    """
    if outputs.ndim == 2:
        return outputs
    positions = math.prod(outputs.shape[2:])
    stride = -(-observations * positions // ROWS_MAX)
    while math.gcd(stride, positions) != 1:
        stride += 1
    rows = outputs.transpose(0, 2, 3, 1).reshape(-1, outputs.shape[1])
    return np.ascontiguousarray(rows[-first * positions % stride :: stride])


def _collect_shown(measured: Measured, encoders: Mapping[int, SnapshotEncoder], probe: Probe) -> None:
    """Add the attention maps of the observations and snapshots that pictures show."""
    found = [encoders[step].outputs(probe.stacks[probe.shown]) for step in measured.shown_steps]
    for name, values in found[0].items():
        if values.ndim == 4:
            measured.maps[name] = np.stack([attention_maps(outputs[name]) for outputs in found])
