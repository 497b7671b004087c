"""Reproductions: their files, shorter runs, and one line for each mistake."""

import base64
import dataclasses
import functools
from pathlib import Path

import pytest

import seer_edge
from seer_edge.api import planning
from seer_edge.api.sweeps import plans_of
from seer_edge.cli import main
from seer_edge.cli.flags import parse
from seer_edge.errors import BadInputError
from seer_edge.reports.reading import read_runs
from seer_edge.reports.scores import Point
from seer_edge.reproduction.description import PaperTable, load, names
from seer_edge.reproduction.page import Made, _point, choice_of, pictures_of
from seer_edge.reproduction.scaling import scaled, times
from seer_edge.sweeps.spec import Job, jobs_of, read_spec
from tests.seer_edge.report_runs import make_run

open_once = functools.cache(planning.open_spec)
NAMES = ["table1", *(f"fig{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13))]
FIGURES = {"returns_steps", "returns_flops"}


@pytest.fixture(autouse=True)
def _each_environment_opens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "open_spec", open_once)


def test_there_is_a_file_for_each_table_and_figure_with_runs() -> None:
    assert names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_complete_and_is_the_file_of_a_sweep(name: str, tmp_path: Path) -> None:
    what = load(name)
    jobs = what.jobs()
    assert set(what.labels) == {job.variant for job in jobs}
    assert what.title.lower().startswith(name.replace("fig", "figure ").replace("table", "table ") + ":")
    assert set(what.figures) <= FIGURES
    assert what.limits
    assert what.tables
    games = {job.env for job in jobs}
    for table in what.tables:
        assert set(table.variants) <= set(what.labels)
        assert set(table.paper) <= set(table.variants)
        assert all(set(scores) == games for scores in table.paper.values())
    (tmp_path / "copy.toml").write_text(what.text)
    assert read_spec(tmp_path / "copy.toml") == jobs


@pytest.mark.integration
@pytest.mark.parametrize("name", NAMES)
def test_each_description_plans_at_full_size_and_at_a_hundredth(name: str, tmp_path: Path) -> None:
    jobs = load(name).jobs(seeds=[0])
    full = plans_of(jobs, name, tmp_path)
    small = plans_of(scaled(jobs, full, 0.01), name, tmp_path)
    assert small.keys() == full.keys()
    for kind, plan in full.items():
        config, shorter = plan.config, small[kind].config
        assert shorter.total_timesteps == times(config.total_timesteps, 0.01)
        assert shorter.freeze_at == (config.freeze_at and times(config.freeze_at, 0.01))
        assert (shorter.source is None) == (config.source is None)
        assert shorter.freeze_at in (None, 0) or shorter.freeze_at > shorter.settings.learning_starts


def test_figures_over_steps_and_over_flops_have_the_same_runs() -> None:
    for first, second in (("fig2", "fig12"), ("fig3", "fig13"), ("fig4", "fig11")):
        assert load(first).sweep == load(second).sweep


def test_papers_numbers_are_those_of_table_1() -> None:
    tables = load("table1").tables
    assert [table.at for table in tables] == [45e12, "end"]
    assert tables[0].paper["rainbow-seer"]["BankHeist"] == (276.6, 98.1)
    assert tables[1].paper["rainbow-bounded"]["CrazyClimber"] == (10498.0, 1387.8)
    assert load("fig3").tables[0].paper == tables[0].paper
    bounded = {name.removesuffix("-bounded"): scores for name, scores in tables[1].paper.items()}
    assert load("fig4").tables[0].paper == load("fig11").tables[1].paper == bounded


SPEC = {
    "envs": ["Alien"],
    "settings": {"total_timesteps": 100_000, "eval_every": 4_000, "set": {"learning_starts": 2_000, "batch_size": 8}},
    "variants": {
        "run": {"mem_budget": "8MB", "freeze_at": 30_000, "keep_checkpoint": [50_000]},
        "whole": {"mem_budget": "1GB", "freeze_at": "never", "set": {"random_steps": 500}},
        "later": {"fork": "run", "at": 20_000, "freeze_at": 40_000, "total_timesteps": 200_000},
        "waits": {"fork": "run", "at": 1_000, "set": {"learning-starts": 4_000, "gamma": 0.9}},
        "same": {"from": {"variant": "run"}, "mem_budget": "8MB"},
    },
}


def _scaled(scale: float) -> dict[str, Job]:
    jobs = jobs_of(SPEC)
    return {job.variant: job for job in scaled(jobs, plans_of(jobs, "spec", Path("runs")), scale)}


def test_scaling_multiplies_every_number_of_steps() -> None:
    jobs = _scaled(0.25)
    assert jobs["run"].options == {
        "total_timesteps": 25_000,
        "eval_every": 1_000,
        "eval_episodes": 2,
        "set": {"learning_starts": 500, "random_steps": 0, "batch_size": 8},
        "mem_budget": "8MB",
        "freeze_at": 7_500,
        "keep_checkpoint": [12_500],
    }
    assert jobs["run"].keeps == (250, 5_000)
    assert (jobs["whole"].options["mem_budget"], jobs["whole"].options["freeze_at"]) == (250_000_000, "never")
    assert jobs["whole"].options["set"] == {"learning_starts": 500, "batch_size": 8, "random_steps": 125}
    assert (jobs["later"].at, jobs["later"].parent) == (5_000, jobs["run"])
    assert jobs["later"].options == {"freeze_at": 10_000, "total_timesteps": 50_000}
    assert jobs["waits"].options == {"set": {"learning_starts": 1_000, "gamma": 0.9}}
    assert jobs["same"].source == jobs["run"]
    assert "freeze_at" not in jobs["same"].options


def test_a_small_scale_keeps_enough_steps_for_a_batch_and_five_evaluations() -> None:
    options = _scaled(0.004)["run"].options
    assert options["set"]["learning_starts"] == 24  # 20 steps of a window, and a stack of 4 frames
    assert (options["total_timesteps"], options["eval_episodes"], options["eval_every"]) == (400, 1, 80)
    assert _scaled(0.05)["run"].options["eval_every"] == 400  # one episode for half of one: half of the evaluations
    whole = _scaled(0.004)["whole"].options["mem_budget"]
    assert whole == 4_000_000


def test_scale_one_changes_nothing() -> None:
    assert list(_scaled(1).values()) == jobs_of(SPEC)


def test_only_some_environments_and_seeds_bring_the_runs_that_they_need() -> None:
    found = [job.name for job in load("fig7").jobs(["Hopper-Hop"], [5])]
    assert found == ["walker-stand__stand-60K__5", "hopper-hop__curl__5", "hopper-hop__transferred__5"]
    lengths = [(job.name, job.parent and job.parent.name) for job in load("fig10").jobs(["walker-stand"], [0])]
    assert lengths == [
        ("walker-stand__stand-20K__0", None),
        ("walker-stand__stand-40K__0", "walker-stand__stand-20K__0"),
        ("walker-stand__stand-60K__0", "walker-stand__stand-40K__0"),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tabel1", {}, "NAME tabel1: not a table or figure with runs; nearest: table1"),
        ("figure12", {}, "NAME figure12: not a table or figure with runs; nearest: fig12"),
        ("", {}, "NAME : not a table or figure with runs; choose one of table1, fig2"),
        ("../fig2", {}, "NAME ../fig2: not a table or figure with runs"),
        ("fig2", {"scale": 0}, "--scale 0: give a number above 0 and at most 1"),
        ("fig2", {"scale": 1.5}, "--scale 1.5: give a number above 0 and at most 1"),
        ("fig2", {"scale": float("nan")}, "--scale nan: give a number"),
        ("fig2", {"envs": ["Alien"]}, "--envs Alien: not in fig2; choose from cartpole-swingup, reacher-easy"),
        ("fig2", {"seeds": []}, "seeds: give a list of whole numbers"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_writes_nothing(
    name: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError) as refused:
        seer_edge.reproduce(name, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "{0} is a run's folder; name a folder elsewhere"),
        ("sweep.json", "not the folder of a reproduction; name a new one"),
    ],
)
def test_a_folder_with_other_files_is_refused(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(BadInputError, match=f"-o {tmp_path}: {message.format(tmp_path)}"):
        seer_edge.reproduce("fig2", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"name": "fig2"}', '{"name": "a", "scale": 1, "sweep": 2, "forecast": 3}']
)
def test_a_damaged_record_is_refused(record: str, tmp_path: Path) -> None:
    (tmp_path / "reproduction.json").write_text(record)
    with pytest.raises(BadInputError, match=r"-o .*: reproduction.json cannot be used \(.*\); name another folder"):
        seer_edge.reproduce("fig2", tmp_path)


@pytest.mark.parametrize("scale", ["0", "-1", "1.01", "x", "inf", "nan", ""])
def test_the_flag_refuses_invalid_scales(scale: str) -> None:
    with pytest.raises(BadInputError, match=r"--scale: .* is not a scale; give a number above 0 and at most 1"):
        parse(["reproduce", "fig2", f"--scale={scale}"])


@pytest.mark.parametrize("flags", [("--scale", "0.5"), ("--envs", "Alien"), ("--seeds", "0")])
def test_print_refuses_flags_that_choose_runs(
    flags: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["seer-edge", "reproduce", "fig8", "--print", *flags])
    assert main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{flags[0]}: cannot be given with --print" in captured.err


def test_the_page_of_figure_8_has_the_pictures_of_the_analysis_in_order(tmp_path: Path) -> None:
    for name in ("attention_Alien_conv-1", "attention_change", "cka", "svcca"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    made = Made(load("fig8"), 1.0, tmp_path, (), {}, {}, {}, analysis=tmp_path)
    assert [(title, base64.b64decode(picture).decode()) for title, picture in pictures_of(made)] == [
        ("svcca", "svcca"),
        ("attention change", "attention_change"),
        ("attention Alien conv-1", "attention_Alien_conv-1"),
    ]
    assert list(pictures_of(dataclasses.replace(made, analysis=None))) == []


@pytest.mark.parametrize(
    ("envs", "seeds", "line"),
    [
        (["Alien"], [0], "Runs: 2, in the whole reproduction 80. Seeds: 0. Environments: Alien."),
        (["Alien", "Krull"], [7, 8], "Runs: 8, in the whole reproduction 80. Seeds: 7, 8. Environments: Alien, Krull."),
        (None, None, None),
        (None, [0, 1, 2, 3, 4], None),
    ],
)
def test_the_page_says_which_runs_were_chosen(
    envs: list[str] | None, seeds: list[int] | None, line: str | None, tmp_path: Path
) -> None:
    what = load("fig4")
    made = Made(what, 1.0, tmp_path, what.jobs(envs, seeds), {}, {}, {})
    assert list(choice_of(made)) == ([] if line is None else [line])


def test_the_page_does_not_call_the_runs_of_other_seeds_left_out(tmp_path: Path) -> None:
    what = load("fig4")
    made = Made(what, 1.0, tmp_path, what.jobs(seeds=[5, 6, 7, 8, 9]), {}, {}, {})
    [line] = choice_of(made)
    assert line.startswith("Runs: 80, in the whole reproduction 80. Seeds: 5, 6, 7, 8, 9. ")


def test_equal_flops_are_those_of_finished_runs(tmp_path: Path) -> None:
    """A run that was stopped early does not move the point at which the others are compared."""
    runs = read_runs([make_run(tmp_path / "whole"), make_run(tmp_path / "begun", 1, status="interrupted")])
    begun = dataclasses.replace(runs[1], progress={name: column[:2] for name, column in runs[1].progress.items()})
    table = PaperTable("Scores", "equal", ("a", "b"), {})
    assert _point(table, 1.0, {"a": [runs[0]], "b": [begun]}) == Point(flops=10e12)
    assert _point(table, 1.0, {"a": [], "b": [begun]}) == Point()
