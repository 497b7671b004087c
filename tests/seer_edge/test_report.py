"""Reports read, group and score runs, and reject bad input in one line."""

import dataclasses
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.api import reports
from seer_edge.cli import main
from seer_edge.errors import BadInputError
from seer_edge.reports import drawing
from seer_edge.reports.build import ReportOptions, content_of, write_figures
from seer_edge.reports.figures import all_figures, colors_of
from seer_edge.reports.grouping import grouped
from seer_edge.reports.page import DASHES, SHAPES, render
from seer_edge.reports.panels import Figure, Key, csv_text
from seer_edge.reports.reading import CPU_SECONDS, SECONDS, STEPS, read_run, read_runs
from seer_edge.reports.scores import Point, last_quarter_return, rows_of, score_of
from tests.seer_edge.report_runs import make_run

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "docs" / "results"
END = Point()


def test_scores_are_read_at_the_end_at_a_step_or_at_flops(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert (score_of(run, END).step, score_of(run, END).mean) == (10_000, 100.0)
    assert score_of(run, Point(step=9_999)).mean == 50.0
    assert score_of(run, Point(flops=5e12)).step == 5_000
    assert score_of(run, Point(flops=4.9e12)).why_none == "no evaluation up to the point"
    for point in (Point(step=10_001), Point(flops=1.1e13)):
        assert score_of(run, point).mean is None
        assert score_of(run, point).why_none == "is at step 10,000, before the point"


def test_cells_of_a_csv_keep_whole_numbers_and_are_empty_without_a_value() -> None:
    line = ("a, b", 45_000_000_000_001, np.float32(0.5), 1 / 3, None, np.nan)
    assert csv_text(("name", *"vwxyz"), [line]) == 'name,v,w,x,y,z\r\n"a, b",45000000000001,0.5,0.3333333333,,\r\n'


def test_the_last_quarter_is_that_of_the_training_episodes(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert last_quarter_return(run) == pytest.approx((80 + 85 + 90 + 95 + 100) / 5)
    assert last_quarter_return(dataclasses.replace(run, episodes=None)) == 10.0  # of progress.csv


def test_other_arguments_of_the_environment_are_another_setting(tmp_path: Path) -> None:
    shapes = {"small": [42, 42], "large": [60, 60], "again": [42, 42]}
    runs = [make_run(tmp_path / name, env_kwargs={"shape": shape}) for name, shape in shapes.items()]
    found = {name: [run.path.name for run in runs] for name, runs in grouped(read_runs(runs))["Alien"].items()}
    assert found == {
        'env kwargs {"shape": [42, 42]}': ["small", "again"],
        'env kwargs {"shape": [60, 60]}': ["large"],
    }


def test_runs_that_differ_only_in_how_they_are_watched_have_one_setting(tmp_path: Path) -> None:
    watched = {"status_port": "8080", "control_socket": "robot.sock", "wandb": "seer", "eval_video": True}
    watched |= {"min_updates_per_step": 0.5}  # of a warning
    runs = [make_run(tmp_path / "watched", **watched), make_run(tmp_path / "plain", **dict.fromkeys(watched))]
    assert list(grouped(read_runs(runs))["Alien"]) == ["rainbow"]


def test_whole_numbers_are_one_setting_as_ints_and_as_floats(tmp_path: Path) -> None:
    rates = {"flag": (30.0, [2.0, 0.5]), "python": (30, [2, 0.5]), "slow": (10.0, [2, 0.5])}
    runs = [make_run(tmp_path / name, hz=hz, slew_rate=slew) for name, (hz, slew) in rates.items()]
    found = {name: [run.path.name for run in runs] for name, runs in grouped(read_runs(runs))["Alien"].items()}
    assert found == {"hz 30": ["flag", "python"], "hz 10": ["slow"]}


def test_settings_are_named_by_their_differences_within_a_game(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", freeze_at=4000, mem_budget_bytes=70_000_000),
        make_run(tmp_path / "b", freeze_at=None, mem_budget_bytes=70_000_000),
        make_run(tmp_path / "c", freeze_at=8000, env_name="Qbert", mem_budget_bytes=20_000_000),
        make_run(tmp_path / "d", freeze_at=None, env_name="Qbert", seed=5),
    ]
    groups = grouped(read_runs(runs))
    assert {game: list(settings) for game, settings in groups.items()} == {
        "Alien": ["frozen", "never frozen"],
        "Qbert": ["frozen", "never frozen"],
    }
    assert colors_of(groups) == {"frozen": 0, "never frozen": 1}


def test_two_freezes_of_one_game_are_named_by_their_steps(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(step), freeze_at=step) for step in (2000, 4000)]
    assert list(grouped(read_runs(runs))["Alien"]) == ["frozen at 2,000", "frozen at 4,000"]


def test_a_freeze_is_named_in_one_piece_and_a_codec_only_where_there_is_one(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "auto": {"freeze_at": 4000, "freeze_window": 400, "latent_codec": "float32"},
        "fixed": {"freeze_at": 4000, "freeze_window": None, "latent_codec": "float32"},
        "codec": {"freeze_at": 4000, "freeze_window": None, "latent_codec": "uint8"},
        "never": {"freeze_at": None, "freeze_window": None, "latent_codec": "float32"},
        "again": {"freeze_at": None, "freeze_window": None, "latent_codec": "uint8"},
    }
    runs = {name: make_run(tmp_path / name, **given) for name, given in settings.items()}
    found = {
        name: [run.path.name for run in runs] for name, runs in grouped(read_runs([*runs.values()]))["Alien"].items()
    }
    assert found == {
        "frozen by auto, latent codec float32": ["auto"],
        "frozen, latent codec float32": ["fixed"],
        "frozen, latent codec uint8": ["codec"],
        "never frozen": ["never", "again"],
    }
    other = make_run(tmp_path / "other", freeze_at=8000, freeze_window=800, latent_codec="float32")
    assert [*grouped(read_runs([runs["auto"], other]))["Alien"]] == [
        "frozen by auto, windows of 400",
        "frozen by auto, windows of 800",
    ]


@pytest.mark.parametrize("name", ["alien-30k", "cartpole-50/frozen", "cartpole-50/never"])
def test_the_runs_of_the_docs_are_read(name: str) -> None:
    run = read_run(RESULTS / name)
    [row] = rows_of(grouped([run]), END)
    assert row.mean is not None
    assert last_quarter_return(run) is not None
    assert run.freeze_step == {"alien-30k": 12_000, "cartpole-50/frozen": 10_000}.get(name)


def _answer(arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["seer-edge", "report", *map(str, arguments)])
    assert main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere", "-o", "r.html"], ["nowhere: there is no such file or folder", "give the folders of runs"]),
        (["foreign", "-o", "r.html"], ["foreign: not a run's folder", "give the folders of runs"]),
        (["odd", "-o", "r.html"], ["config.json: not the configuration of a run"]),
        (["bare", "-o", "r.html"], ["bare/progress.csv: has no rows, although the run is finished; leave the run out"]),
        (["torn", "-o", "r.html"], ["progress.csv: not a table of numbers, see its line 2;"]),
        (["short", "-o", "r.html"], ["progress.csv: not a table of numbers, see its line 3;"]),
        (["quoted", "-o", "r.html"], ["progress.csv: not a table of numbers, see its line 3;"]),
        (["run", "run/", "-o", "r.html"], ["run: is the same run as run; name each run once"]),
        (["run"], ["-o: is missing"]),
        (["-o", "r.html"], ["RUN"]),
        (["run", "-o", "none/r.html"], ["-o none/r.html: cannot be written"]),
        (["run", "-o", "run"], ["-o run: is there already, and is not a regular file"]),
        (["run", "-o", "run/config.json"], ["-o run/config.json: exists and is not a page; name another file"]),
        (["run", "-o", "run/progress.csv", "--follow"], ["-o run/progress.csv: exists and is not a page"]),
        (["run", "-o", "r.html", "--figures", "run/config.json"], ["--figures run/config.json: ", "is a run's folder"]),
        (
            ["run", "-o", "r.html", "--figures", "run"],
            ["--figures run: run is a run's folder; name"],
        ),
        (["run", "-o", "r.html", "--figures", "/proc/none"], ["--figures /proc/none: cannot be written"]),
        (["run", "--follow", "--figures", "f"], ["--figures: cannot be given with --follow"]),
        (["run", "-o", "r.html", "--at-step", "0"], ["--at-step: '0' is too small"]),
        (["run", "-o", "r.html", "--at-flops", "45X"], ["--at-flops: '45X' is not a number of FLOPs", "45T"]),
        (["run", "-o", "r.html", "--at-flops", "45T", "--at-step", "9"], ["--at-step", "not allowed with"]),
        (["run", "--follow", "--port", "70000"], ["--port: 70000 is out of range"]),
    ],
)
def test_bad_input_is_reported_in_one_line_and_writes_nothing(
    arguments: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    Path("foreign").mkdir()
    make_run(Path("odd"), env_name="Alien")
    Path("odd/config.json").write_text('{"env": "x"}')
    make_run(Path("bare"))
    Path("bare/progress.csv").unlink()
    make_run(Path("torn"))
    Path("torn/progress.csv").write_text("time/total_timesteps,compute/flops\n1000,many\n")
    make_run(Path("short"))
    Path("short/progress.csv").write_text("time/total_timesteps,compute/flops\n1000,5\n2000\n")
    make_run(Path("quoted"))
    Path("quoted/progress.csv").write_text('time/total_timesteps\n1000\n"' + "2000\n" * 50_000)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    line = _answer(arguments, monkeypatch, capsys)
    assert [part for part in parts if part not in line] == []
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_report_of_make_demo_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "demo")
    monkeypatch.setenv("MAKEFLAGS", "")  # those of `make test` are for other targets
    words = ["make", "--no-print-directory", "--dry-run", "demo", f"DEMO={run}"]
    printed = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(sys, "argv", shlex.split(printed.splitlines()[-1]))
    assert main() == 0
    assert (run / "report.html").is_file()
    assert (tmp_path / "demo-figures" / "returns_steps.png").is_file()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BadInputError, match=r"jinja2 is missing; pip install 'seer-edge\[report\]'"):
        reports.report([make_run(tmp_path / "run")], tmp_path / "r.html")


@pytest.mark.parametrize("text", ["", "time/total_ti"])
def test_a_table_whose_header_is_not_written_yet_has_no_rows(text: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    (run / "progress.csv").write_text(text)
    assert read_run(run).last_step == 0


def test_a_report_changes_no_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    content_of(ReportOptions((run,), END))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()} == before


def test_lateness_is_drawn_for_runs_in_real_time_only(tmp_path: Path) -> None:
    lockstep, real_time = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    table = (real_time / "progress.csv").read_text().splitlines()
    late = ["control/late_p99_ms,control/late_worst_ms", *(f"{row / 10},{row}" for row in range(10))]
    (real_time / "progress.csv").write_text("".join(f"{row},{more}\n" for row, more in zip(table, late, strict=True)))

    def names(*runs: Path) -> dict[str, Figure]:
        groups = grouped(read_runs(runs))
        return {figure.name: figure for figure in all_figures(groups, [], "at the end")}

    assert "real_time" not in names(lockstep)
    (panel,) = names(lockstep, real_time)["real_time"].panels
    drawn = {series.label: series.y.tolist() for series in panel.series if len(series.y)}
    assert drawn == {
        "lateness of ticks, p99, seed 1": [row / 10 for row in range(10)],
        "lateness of ticks, worst, seed 1": list(range(10)),
    }


def test_a_run_that_has_just_begun_does_not_change_the_axis_of_time(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    timed = dataclasses.replace(run, progress={**run.progress, CPU_SECONDS: run.column(SECONDS)})
    begun = dataclasses.replace(run, progress={STEPS: np.zeros(0)}, episodes=None, freeze_step=None, status="running")
    for runs, axis in (([timed, begun], "CPU seconds"), ([timed, run], "seconds of training (wall clock)")):
        figures = {figure.name: figure for figure in all_figures({"Alien": {"rainbow": runs}}, [], "")}
        assert figures["returns_seconds"].x_label == axis


def test_a_full_disk_leaves_the_pictures_of_an_earlier_report_whole(tmp_path: Path) -> None:
    run, folder = make_run(tmp_path / "run"), tmp_path / "figures"
    reports.report([run], tmp_path / "report.html", figures=folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    limit, unlimited = min(map(len, before.values())) - 1, resource.getrlimit(resource.RLIMIT_FSIZE)
    content = content_of(ReportOptions((run,), END))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        with pytest.raises(BadInputError, match=r"^--figures .*: cannot be written \(File too large\); name another"):
            write_figures(content, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before


def test_dollar_signs_in_the_name_of_a_setting_are_not_mathematics(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / path, env_kwargs={"path": path}) for path in ("$HOME{$a", "$b")]
    page, folder = tmp_path / "report.html", tmp_path / "figures"
    reports.report(runs, page, figures=folder)
    assert "$HOME{$a" in page.read_text()
    assert "$HOME{$a" in (folder / "memory.csv").read_text()
    assert (folder / "scores.png").exists()


def test_a_long_title_stays_inside_its_picture(tmp_path: Path) -> None:
    groups = grouped(read_runs([make_run(tmp_path / "run")]))
    figure = all_figures(groups, [], "at the end")[0]
    panel = dataclasses.replace(figure.panels[0], title=3 * "ALE/CrazyClimber-v5, mem_budget 0.07GB, store compact, ")
    drawn, axes = drawing.pyplot().subplots(figsize=drawing.PANEL_INCHES, layout="constrained")
    drawing._draw(axes, figure, panel)
    drawn.canvas.draw()
    title = axes._left_title.get_window_extent()
    drawing.pyplot().close(drawn)
    assert drawn.bbox.x0 <= title.x0 < title.x1 <= drawn.bbox.x1
    assert title.y1 <= drawn.bbox.y1


def test_points_of_settings_with_the_same_colour_have_different_markers() -> None:
    looks = [drawing.look_of(number) for number in range(len(drawing.PALETTE) * len(drawing.MARKERS))]
    assert len({tuple(look.point.values()) for look in looks}) == len(looks)
    lines = [(look.color, look.dash) for look in looks[: len(drawing.PALETTE) * len(drawing.DASHES)]]
    assert len(set(lines)) == len(lines)


def test_a_legend_shows_the_markers_and_dashes_of_its_picture(tmp_path: Path) -> None:
    content = content_of(ReportOptions((make_run(tmp_path / "run"),), END))
    numbers = (1, 7, 13)
    keys = [Key(f"{style} {number}", style, number) for number in numbers for style in ("dots", "mean")]
    figure = dataclasses.replace(content.figures[0], keys=tuple(keys))
    legend = render(dataclasses.replace(content, figures=(figure,))).split('<ul class="keys">')[1].split("</ul>")[0]
    swatches = dict(zip((key.label for key in keys), legend.split("<li>")[1:], strict=True))
    for number in numbers:
        look = drawing.look_of(number)
        assert SHAPES[look.marker] in swatches[f"dots {number}"]
        assert ('fill="none"' in swatches[f"dots {number}"]) == look.hollow
        assert f'stroke-dasharray="{DASHES[look.dash]}"' in swatches[f"mean {number}"]


def test_runs_with_an_imported_encoder_are_settings_of_their_own(tmp_path: Path) -> None:
    """Each seed may import the encoder of another seed's run, and each game that of a run on the same game."""
    imported: dict[str, Any] = {"freeze_at": 0, "take": "encoder"}
    runs = [
        make_run(tmp_path / "own", source=None, take=None),
        make_run(tmp_path / "a0", source="/home/me/stand__pretrained-20K__0", **imported),
        make_run(tmp_path / "a1", 1, source="/data/stand__pretrained-20K__1", **imported),
        make_run(tmp_path / "b0", source="runs/stand-40K.seer", **imported),
        make_run(tmp_path / "c0", source="runs/Alien__rainbow__0__20261201-120000", **imported),
        make_run(tmp_path / "c1", 1, source="runs/Alien__rainbow__1__20261201-120000-2", **imported),
        make_run(tmp_path / "d0", source="runs/stand__lr0.1__0", **imported),
        make_run(tmp_path / "f0", source="enc-0.bin", **imported),
        make_run(tmp_path / "f1", 1, source="enc-1.bin", **imported),
        make_run(tmp_path / "e0", source="runs/st\udcffnd.seer", **imported),
    ]
    found = {name: [run.path.name for run in runs] for name, runs in grouped(read_runs(runs))["Alien"].items()}
    assert found == {
        "frozen": ["own"],
        "encoder imported, from stand__pretrained-20K": ["a0", "a1"],
        "encoder imported, from stand-40K": ["b0"],
        "encoder imported, from rainbow": ["c0", "c1"],
        "encoder imported, from stand__lr0.1": ["d0"],
        "encoder imported, from enc": ["f0", "f1"],
        "encoder imported, from st\N{REPLACEMENT CHARACTER}nd": ["e0"],
    }
