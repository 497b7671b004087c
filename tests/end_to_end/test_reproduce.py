"""A reproduction from the estimate to the page, with real runs of a tiny description."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import pytest

import seer_edge
from seer_edge.api.results import ReproductionResult
from seer_edge.api.sweeps import plans_of
from seer_edge.errors import BadInputError
from seer_edge.reproduction import description
from seer_edge.reproduction.scaling import scaled
from seer_edge.runs.run_folder import RunFolder
from seer_edge.sweeps.cost import kind_of
from tests.seer_edge.test_report_page import Page

pytestmark = pytest.mark.slow

TINY = """
envs = ["Alien"]
[settings]
mem_budget = "400KB"
total_timesteps = 200
eval_max_steps = 10
eval_every = 8
eval_episodes = 4
set = {batch_size = 8, learning_starts = 60, hidden = 16, n_step = 3}
[variants.rainbow]
freeze_at = "never"
[variants.transferred]
from = {variant = "rainbow"}

[about]
title = "Figure 99: a tiny figure"
section = "Section 9"
shows = "SEER is <better>."
setting = "One game, 200 steps."
limits = ["Nothing is known."]
figures = ["returns_flops"]
[about.labels]
rainbow = "Rainbow"
transferred = "Rainbow, imported encoder"
[[about.tables]]
title = "Scores at the end"
at = "end"
[about.tables.paper.rainbow]
Alien = [1038.4, 101.1]
[[about.tables]]
title = "Scores at equal FLOPs"
at = "equal"
"""
RUNS = ("Alien__rainbow__0", "Alien__transferred__0")


@dataclasses.dataclass
class Made:
    folder: Path
    result: ReproductionResult
    page: Page
    text: str
    estimate: list[str]


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two runs of 100 steps, one with the encoder of the other."""
    folder, handler = tmp_path_factory.mktemp("reproduce"), _Lines()
    (folder / "fig99.toml").write_text(TINY)
    (folder / "fig100.toml").write_text(TINY)  # the same runs
    output = logging.getLogger("seer_edge.output")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(description, "FOLDER", folder)
        output.addHandler(handler)
        level = output.level
        output.setLevel(logging.INFO)
        try:
            result = seer_edge.reproduce("fig99", folder / "out", scale=0.5, jobs=2)
        finally:
            output.removeHandler(handler)
            output.setLevel(level)
    text = (folder / "out" / "fig99.html").read_text()
    return Made(folder, result, Page(text), text, handler.lines)


@pytest.fixture(autouse=True)
def _tiny_descriptions(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "FOLDER", made.folder)


def _summary(made: Made, run: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((made.folder / "out" / run / "summary.json").read_text())
    return found


def test_the_cost_is_shown_first_and_then_the_runs_finish(made: Made) -> None:
    assert [line.split()[:2] for line in made.estimate[:2]] == [[run, "waiting"] for run in RUNS]
    assert made.estimate[2].startswith("Alien: an evaluation episode of about 10 steps; measured: ")
    assert re.fullmatch(r"2 runs, about \d+\.\d+ hours with 2 at a time", made.estimate[3])
    assert [job.status for job in made.result.sweep.jobs] == ["finished"] * 2
    assert [_summary(made, run)["timesteps"] for run in RUNS] == [100, 100]
    freeze = _summary(made, RUNS[1])["freeze"]
    assert isinstance(freeze, dict)
    assert freeze["timestep"] == 0
    assert made.result.page == made.folder / "out" / "fig99.html"


def test_the_page_shows_the_papers_numbers_beside_those_of_the_runs(made: Made) -> None:
    table = made.page.tables[0]
    assert table[0][:5] == ["Environment", "Variant", "Paper", "Here", "Runs"]
    assert [line[:3] for line in table[1:]] == [
        ["Alien", "Rainbow", "1,038.4 ± 101.1"],
        ["Alien", "Rainbow, imported encoder", "–"],
    ]
    for line, run in zip(table[1:], RUNS, strict=True):
        evaluation = _summary(made, run)["eval"]
        assert isinstance(evaluation, dict)
        assert float(line[3].replace(",", "")) == pytest.approx(evaluation["mean_return"], abs=0.5)
        assert line[4:6] == ["1 of 1", "100"]


def test_the_plan_before_the_source_exists_equals_the_configuration_of_the_run(made: Made) -> None:
    out = made.folder / "out"
    jobs = description.load("fig99").jobs()
    small = scaled(jobs, plans_of(jobs, "fig99", out), 0.5)
    plans = plans_of(small, "fig99", out)
    for job in small:
        assert plans[kind_of(job)].config == RunFolder(out / job.name).read_config()


def test_scores_at_equal_flops_are_those_at_the_end_of_the_cheapest(made: Made) -> None:
    rainbow, transferred = made.page.tables[1][1:]
    assert transferred[5] == "100"
    assert 0 < int(rainbow[5]) < 100
    assert float(rainbow[6]) <= float(transferred[6])


def test_the_page_lists_scaled_settings_and_differences(made: Made) -> None:
    settings = made.page.tables[2]
    assert settings[1][:5] == ["Alien", "Rainbow", "200 → 100", "never", "60 → 30"]
    assert settings[2][3] == "0"
    assert "SEER is &lt;better&gt;." in made.text
    for line in (
        "These runs have 0.5 times the paper&#39;s steps.",
        "Episodes of an evaluation: 2, in the paper 10.",
        "Nothing is known.",
        "2 finished runs: ",
    ):
        assert line in made.text
    assert made.text.index('id="paper"') < made.text.index('id="scores"') < made.text.index('id="returns_flops"')
    assert made.text.index('id="returns_flops"') < made.text.index('id="returns_steps"')


def test_a_second_call_repeats_nothing_and_another_figure_may_share_the_runs(made: Made) -> None:
    before = [(made.folder / "out" / run / "summary.json").stat().st_mtime_ns for run in RUNS]
    again = seer_edge.reproduce("fig100", made.folder / "out", scale=0.5, jobs=2)
    assert again.page == made.folder / "out" / "fig100.html"
    assert [(made.folder / "out" / run / "summary.json").stat().st_mtime_ns for run in RUNS] == before


def test_the_folder_of_another_reproduction_is_refused(made: Made) -> None:
    before = sorted((made.folder / "out").iterdir())
    with pytest.raises(BadInputError, match=r"holds the runs of fig\d+ with --scale 0.5; name another folder"):
        seer_edge.reproduce("fig99", made.folder / "out", scale=0.25)
    (made.folder / "fig98.toml").write_text(TINY.replace("400KB", "500KB"))
    with pytest.raises(BadInputError, match=r"holds the runs of fig\d+ with --scale 0.5; name another folder"):
        seer_edge.reproduce("fig98", made.folder / "out", scale=0.5)
    assert sorted((made.folder / "out").iterdir()) == before
