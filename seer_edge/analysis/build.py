"""Write an analysis: the figures, tables and pictures of measured runs, and their summary."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from seer_edge.analysis.figures import (
    AnalyzedRun,
    all_figures,
    attention_csv,
    latents_csv,
    maps_csv,
    similarity_csv,
)
from seer_edge.analysis.measure import Measured, Probe
from seer_edge.analysis.pictures import write_attention
from seer_edge.errors import BadInputError, written_to
from seer_edge.reports.drawing import write_png
from seer_edge.runs.run_folder import check_outside_runs
from seer_runtime import durable

STABLE = 0.95
"""SVCCA from which on a layer counts as converged in the summary."""


def check_output(folder: Path) -> None:
    """Raise BadInputError if `folder` is not a folder, or is that of a run."""
    check_outside_runs(folder, "-o")
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"-o {folder}: not a folder; name a new one")


def write_analysis(runs: Sequence[AnalyzedRun], probes: Mapping[str, Probe], folder: Path) -> list[str]:
    """Write all files into `folder` and return their names. `probes` are by the label of the run.

    Raises BadInputError if the folder cannot be written.
    """
    with written_to("-o", folder):
        folder.mkdir(parents=True, exist_ok=True)
        return list(_write(runs, probes, folder))


def _write(runs: Sequence[AnalyzedRun], probes: Mapping[str, Probe], folder: Path) -> Iterator[str]:
    for figure in all_figures(runs):
        write_png(figure, folder / f"{figure.name}.png")
        yield f"{figure.name}.png"
    tables = {"similarity": similarity_csv, "attention_change": attention_csv, "latents": latents_csv}
    for name, table in tables.items():
        durable.write_atomic(folder / f"{name}.csv", table(runs).encode())
        yield f"{name}.csv"
    for run in runs:
        probe = probes[run.label]
        frames = probe.frames()
        for layer, maps in run.measured.maps.items():
            name = f"attention_{run.label}_{layer.replace(' ', '-')}"
            title = f"{run.label}, {layer}: spatial attention"
            write_attention(folder / f"{name}.png", title, frames, maps, run.measured.shown_steps)
            durable.write_atomic(folder / f"{name}.csv", maps_csv(run, layer).encode())
            yield from (f"{name}.png", f"{name}.csv")


def summary_of(run: AnalyzedRun) -> list[str]:
    """Return the results of a run as lines of text."""
    measured = run.measured
    frozen = "not frozen" if run.frozen_at is None else f"frozen at step {run.frozen_at:,}"
    span = f"steps {measured.steps[0]:,} to {measured.steps[-1]:,}"
    lines = [
        f"{run.label}: {len(measured.steps)} snapshots, {span}, {frozen}; {run.observations:,} observations",
    ]
    if measured.similarities:
        lines += _similarity_lines(measured)
    first, last = measured.latents[0], measured.latents[-1]
    lines.append(
        f"  latents at step {last.step:,}: {last.dead} of {last.dimensions} dimensions dead ({first.dead} at step "
        f"{first.step:,}), values {last.low:.3g} to {last.high:.3g}"
    )
    rates = [f"{name} {rate:.2%}" for name, rate in last.clip_rates.items() if rate is not None]
    if rates:
        lines.append(f"  clip rate of held-out observations: {', '.join(rates)}")
    return lines


def _similarity_lines(measured: Measured) -> Iterator[str]:
    width = max(map(len, measured.layers))
    yield f"  {'layer':<{width}}  SVCCA least, last  CKA least, last  SVCCA stays above {STABLE} from step"
    for layer in dict.fromkeys(similarity.layer for similarity in measured.similarities):
        found = [similarity for similarity in measured.similarities if similarity.layer == layer]
        svcca, cka = min(each.svcca for each in found), min(each.cka for each in found)
        unstable = [number for number, similarity in enumerate(found) if similarity.svcca < STABLE]
        begin = unstable[-1] + 1 if unstable else 0
        stable = f"{found[begin].step:,}" if begin < len(found) else "none"
        yield (f"  {layer:<{width}}  {svcca:>11.3f}, {found[-1].svcca:.3f}  {cka:>9.3f}, {found[-1].cka:.3f}  {stable}")
