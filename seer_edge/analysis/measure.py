"""Measure the layers of one run at all of its snapshots, on one probe of observations."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.agents.agent import Agent
from seer_edge.analysis.attention import attention_maps
from seer_edge.analysis.latents import LatentStatistics, latent_statistics
from seer_edge.analysis.layers import SnapshotEncoder, layer_names
from seer_edge.analysis.similarity import linear_cka, mean_correlation, principal_components
from seer_edge.networks.spec import EncoderSpec
from seer_edge.runs.snapshots import Weights

BATCH = 32
ROWS_MAX = 30_000
"""About as many rows of a convolution are compared if it has more. They are of all observations and positions."""
ATTENTION_OBSERVATIONS, SHOWN_OBSERVATIONS, SHOWN_SNAPSHOTS = 60, 6, 6
"""Observations whose attention maps are compared; the columns and rows of a picture of attention maps."""

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
    def attended(self) -> NDArray[np.intp]:
        """The observations whose attention is measured, evenly spaced among those with a full stack."""
        usable = np.flatnonzero(self.filled) if self.filled.any() else np.arange(len(self.filled))
        return usable[_evenly(len(usable), ATTENTION_OBSERVATIONS)]

    @property
    def shown(self) -> NDArray[np.intp]:
        """Those of the attended observations that pictures show, as places among them."""
        return _evenly(len(self.attended), SHOWN_OBSERVATIONS)

    def frames(self) -> list[NDArray[np.uint8]]:
        """Return the newest frame of each shown observation, `[h, w]` or `[h, w, 3]`."""
        newest = self.stacks[self.attended[self.shown], -self.channels :]
        return [frame[0] if self.channels == 1 else np.moveaxis(frame, 0, -1) for frame in newest]


def _evenly(count: int, wanted: int) -> NDArray[np.intp]:
    """Return up to `wanted` evenly spaced places among `count`."""
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(np.intp)


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
        layers: names of the layers with weights, bottom first. Those of heads come last.
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


Layers = dict[str, tuple[NDArray[Any], NDArray[np.float64]]]
"""The outputs `[rows, neurons]` of each layer, and their principal components."""


def pairs_of(steps: Sequence[int], apart: int) -> list[tuple[int, int]]:
    """Return each step with the first one that is at least `apart` steps later, where there is one."""
    later = ((step, next((other for other in steps if other - step >= apart), None)) for step in steps)
    return [(step, other) for step, other in later if other is not None]


def needed_bytes(spec: EncoderSpec, agent: Agent, snapshots: int, rows: int) -> int:
    """Return about how many bytes `measure` and its probe take, beside Python, PyTorch and the agent."""
    observation, latent = math.prod(spec.input_shape), math.prod(spec.latent_shape)
    weights = sum(map(math.prod, spec.weight_shapes.values()))
    maps = spec.map_elements + spec.networks * (spec.features or 0)
    positions = sum(height * width for _, height, width in spec.shapes[1:])
    channels = sum(channels for channels, _, _ in spec.shapes[1:])
    heads = agent.head_tensors()
    weights += sum(tensor.numel() for tensor in heads.values())
    outputs = sum(tensor.numel() for tensor in heads.values() if tensor.ndim == 1)
    floats = 2 * weights + 6 * rows * outputs + 3 * BATCH * maps + 4 * rows * latent
    floats += snapshots * ATTENTION_OBSERVATIONS * positions + 6 * max(ROWS_MAX, rows) * channels
    return rows * observation + 4 * floats


def measure(
    spec: EncoderSpec,
    agent: Agent,
    steps: Sequence[int],
    weights: Callable[[int], Weights],
    probe: Probe,
    pairs: Sequence[tuple[int, int]],
    done: Progress,
) -> Measured:
    """Measure the snapshots of a run at `steps`, which ascend; `weights` returns those of a step.

    `agent` computes the layers of the heads, where snapshots have their weights.
    `pairs` are the steps to compare. `done` is called after each batch and each comparison. A comparison counts as much
    as a snapshot.
    """
    measured = Measured(tuple(steps), layer_names(spec))
    layers: dict[int, Layers] = {}
    attention: dict[int, dict[str, NDArray[np.float32]]] = {}
    rows = len(probe.stacks)
    before, total = 0, (len(steps) + len(pairs)) * rows

    def report(seen: int) -> None:
        done("layers", before + seen, total)

    for step in steps:
        encoder = SnapshotEncoder(spec, weights(step), agent)
        outputs, latents = _run(encoder, probe, report)
        layers[step] = {name: (found, principal_components(found)) for name, found in outputs.items()}
        before += rows
        measured.latents.append(latent_statistics(step, latents, probe.filled))
        attention[step] = _attention(encoder, probe)
        for earlier, later in pairs:
            if later == step:
                measured.similarities += _compare(layers[earlier], layers[later], earlier, later)
                before += rows
                report(0)
        needed = {earlier for earlier, later in pairs if earlier <= step < later}
        layers = {kept: found for kept, found in layers.items() if kept in needed}
    measured.layers = tuple(dict.fromkeys([*measured.layers, *(found.layer for found in measured.similarities)]))
    for step in steps:
        for name, last in attention[steps[-1]].items():
            distances = np.abs(attention[step][name] - last).sum(axis=(1, 2), dtype=np.float64) / 2
            measured.changes.append(AttentionChange(name, step, float(distances.mean())))
    measured.shown_steps = tuple(steps[place] for place in _evenly(len(steps), SHOWN_SNAPSHOTS))
    for name in attention[steps[-1]]:
        measured.maps[name] = np.stack([attention[step][name][probe.shown] for step in measured.shown_steps])
    return measured


def _run(
    encoder: SnapshotEncoder, probe: Probe, done: Callable[[int], object]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Return the layers' matrices `[rows, neurons]` and the latents `[observations, N, L]` of the probe."""
    pieces: dict[str, list[NDArray[Any]]] = {}
    latents = []
    rows = len(probe.stacks)
    for start in range(0, rows, BATCH):
        stacks = probe.stacks[start : start + BATCH]
        for name, outputs in encoder.outputs(stacks).items():
            pieces.setdefault(name, []).append(neurons(outputs, rows, start))
        latents.append(encoder.latents(stacks))
        done(start + len(stacks))
    return {name: np.concatenate(parts) for name, parts in pieces.items()}, np.concatenate(latents)


def _attention(encoder: SnapshotEncoder, probe: Probe) -> dict[str, NDArray[np.float32]]:
    """Return the attention maps `[observations, H, W]` of the convolutional layers."""
    pieces: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(probe.attended), BATCH):
        outputs = encoder.outputs(probe.stacks[probe.attended[start : start + BATCH]])
        for name, maps in outputs.items():
            if maps.ndim == 4:
                pieces.setdefault(name, []).append(attention_maps(maps))
    return {name: np.concatenate(parts) for name, parts in pieces.items()}


def _compare(first: Layers, second: Layers, step: int, later: int) -> Iterator[Similarity]:
    for name, (x, components) in first.items():
        if name in second:  # an earlier version may have written one of the snapshots
            y, others = second[name]
            yield Similarity(name, step, later, len(x), mean_correlation(components, others), linear_cka(x, y))


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
