"""evidence collects the finished runs of sweeps, and its page has their means, differences, spreads and regrets."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).parents[2]
EVIDENCE, RESULTS, README = PROJECT / "tools" / "evidence.py", PROJECT / "docs" / "results", PROJECT / "README.md"
PROGRESS = "time/total_timesteps,time/cpu_seconds,eval/mean_reward,memory/rss_bytes,replay/rows,compute/flops\n"
EVALUATIONS = {
    "bounded__0": 100,
    "bounded__1": 300,
    "paper-a__0": 110,
    "paper-b__0": 150,
    "paper-a__1": 320,
    "fresh-a__0": 90,
    "fresh-b__0": 110,
    "paper-20k__0": 190,
    "auto__0": 160,
    "auto__1": 340,
}
"""By variant and seed. The training return of the last quarter is 10 times as much."""
FREEZES = {"auto": 430, "paper-a": 400, "paper-b": 400, "paper-20k": 200}


def _evidence(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EVIDENCE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def _run(
    folder: Path, variant: str, seed: int, evaluation: float, *, status: str = "finished", game: str = "Krull"
) -> None:
    path = folder / f"{game}__{variant}__{seed}"
    (path / "checkpoints").mkdir(parents=True)
    config = {"env": f"ALE/{game}-v5", "env_name": game, "algo": "rainbow", "seed": seed, "total_timesteps": 1000}
    origin = {"run": f"/home/me/runs/Krull__bounded__{seed}", "step": 400} if variant.startswith("paper") else None
    (path / "config.json").write_text(json.dumps({**config, "origin": origin}))
    freeze = {"timestep": FREEZES[variant]} if variant in FREEZES else None
    summary = {"status": status, "freeze": freeze, "rss_peak_bytes": 9_600_000}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "progress.csv").write_text(f"{PROGRESS}500,40,,9e6,400,2e12\n1000,90,{evaluation},8e6,700,5e12\n")
    late = "".join(
        f"{step},{scale * evaluation},50,1\n" for step, scale in ((800, 9), (850, 10), (900, 10), (1000, 11))
    )
    (path / "episodes.csv").write_text(f"step,return,length,updates\n700,1,50,1\n{late}")


def _cells(page: str, begins: str) -> list[list[str]]:
    """Return the cells of each line of a table that begins so."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {begins}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_the_figures_of_the_collected_runs(tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep", tmp_path / "page"
    kept = out / "runs"
    for name, evaluation in EVALUATIONS.items():
        variant, _, seed = name.partition("__")
        _run(sweep, variant, int(seed), evaluation)
    _run(sweep, "uint8-a", 0, 500, status="interrupted")
    done = _evidence("collect", sweep, "--page", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(f"Krull__{name}" for name in EVALUATIONS)
    assert done.stderr == "Krull__uint8-a__0: not finished, left out ...\n"
    rival = {"steps": 1000, "evaluation": [70, 90], "last_quarter": [60] * 4, "games": [{"step": 800, "return": 60}]}
    rival |= {"cpu_seconds": 33.0, "rss_peak_bytes": 7_000_000, "rows": 5}
    (kept / "Krull__stream__0.json").write_text(json.dumps(rival))
    assert json.loads((kept / "Krull__paper-b__0" / "config.json").read_text())["origin"] == {
        "run": "Krull__bounded__0",
        "step": 400,
    }
    done = _evidence("page", "--page", out)
    assert done.returncode == 0, done.stderr

    page = (out / "README.md").read_text()
    scores = {
        cells[0]: cells[1:] for cells in _cells(page, "no freeze, newest") + _cells(page, "SEER, float32 latents")
    }
    bounded, paper = scores["no freeze, newest frames"], scores["SEER, float32 latents"]
    assert bounded[:3] == ["-", "2", "2"]
    assert bounded[3].startswith("200 [")
    assert bounded[5:] == ["4", "90", "5", "700", "10"]  # the peak, not the largest sample of progress.csv
    assert paper[:3] == ["400", "2", "3"]
    assert paper[3].startswith("225 [")  # the mean of 130, which is seed 0's, and 320
    assert paper[4].startswith("2,250 [")
    assert scores["SEER, float32 latents, frozen at 20,000"][:2] == ["200", "1"]
    assert _cells(page, "streaming")[0][1:] == ["-", "1", "1", "80", "60", "4", "33", "-", "5", "7"]
    # The differences of the seeds are 30 and 20.
    assert _cells(page, "paper - bounded")[0][2:] == ["+25 ± 5 (2 of 2 above)", "+250 ± 50 (2 of 2 above)"]
    # The variances of the continuations are 200 and 800, with two of each.
    assert _cells(page, "fresh - paper")[0][2:] == ["-30 ± 22", "-300 ± 224"]
    spread = _cells(page, "Krull | SEER, float32 latents |")[0]
    assert spread[2:4] == [f"{190 / math.sqrt(2):.0f}", f"{40 / math.sqrt(2):.0f}"]
    # Of paper, the continuation that auto has too: paper-a.
    regret = _cells(page, "Krull | 0 | Evaluation")[0]
    assert regret[3:] == ["430", "160", "200", "190", "+30", "150"]
    # paper-20k is better than paper, but only where both have one seed. The regrets to paper-a are -50 and -20.
    best = _cells(page, "Krull | Evaluation | 2")[0]
    assert best[3:] == ["250 ± 127", "400", "215 ± 148", "-35 ± 15", "400", "-35 ± 15"]
    for name in ("evaluation", "training", "curves", "cpu_curves", "flops_curves", "cost"):
        assert f"({name}.png)" in page
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    dots = [line for line in (out / "evaluation.csv").read_text().splitlines() if ",dots," in line]
    random_play = 1598
    shown = [float(line.split(",dots,")[1].split(",")[0]) for line in dots]
    assert sorted(shown) == sorted([80, *EVALUATIONS.values(), random_play])
    # A fork begins where its parent was left, at step 400.
    assert min(_abscissae(out / "curves.csv", "paper, seed")) >= 400
    # Between the rows of progress.csv, at steps 500 and 1,000, CPU seconds and operations grow linearly.
    steps = _abscissae(out / "curves.csv", "bounded, seed")
    for name, at_rows in (("cpu_curves", [40, 90]), ("flops_curves", [2e12, 5e12])):
        assert _abscissae(out / f"{name}.csv", "bounded, seed") == pytest.approx(np.interp(steps, [500, 1000], at_rows))


def _abscissae(figure: Path, series: str) -> list[float]:
    with figure.open(newline="") as file:
        return [float(row["x"]) for row in csv.DictReader(file) if row["series"] == series]


@pytest.mark.parametrize("name", ["Krull__late__0", "Krull__paper-a__x", "krull"])
def test_a_run_that_the_plan_does_not_name_is_refused(name: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    _run(runs, "paper-a", 0, 1.0)
    (runs / "Krull__paper-a__0").rename(runs / name)
    for arguments in (("collect", runs, "--page", tmp_path / "other"), ("page", "--page", tmp_path)):
        done = _evidence(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"evidence.py: {runs / name}: is not named GAME__VARIANT__SEED")
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["runs", name, "checkpoints"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("collect", "nowhere"), "nowhere: holds no runs; give the -o of a sweep"),
        (("page", "--page", "nowhere"), "nowhere/runs: holds no runs; use `evidence.py collect` first"),
        (("page", "--page", " "), "--page: ' ' is not the name of a folder"),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = _evidence(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"evidence.py: {line}\n")


def test_human_normalized_scores_are_of_the_arms_that_all_games_have(tmp_path: Path) -> None:
    arms = ("whole", "bounded", "paper", "uint8", "uint4")
    # A human's scores; Pole has none.
    for game, evaluation in (("Krull", 2665.5), ("Seaquest", 42054.7), ("Pole", 7), ("Alien", 7127.7)):
        for arm in arms:
            _run(tmp_path / "runs", arm, 0, evaluation, game=game)
    _run(tmp_path / "runs", "paper", 1, 7, game="Krull")  # a seed that the other games lack
    # On Alien, one arm has ended no training game.
    (tmp_path / "runs" / "Alien__uint4__0" / "episodes.csv").write_text("step,return,length,updates\n")
    done = _evidence("page", "--page", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text()
    lines = _cells(page.split("## All games")[1].split("##")[0], "")
    assert [cells[1:3] for cells in lines[2:]] == [["1", "3"]] * (len(arms) - 1)
    assert all(cells[3].startswith("1.00") for cells in lines[2:])


@pytest.mark.parametrize("games", [0, 3])
def test_a_run_in_which_too_few_training_games_ended_is_on_the_page(games: int, tmp_path: Path) -> None:
    for seed in (0, 1):
        _run(tmp_path / "runs", "bounded", seed, 100)
    few = "".join(f"{step},7,50,1\n" for step in range(800, 800 + games))
    (tmp_path / "runs" / "Krull__bounded__1" / "episodes.csv").write_text(f"step,return,length,updates\n{few}")
    done = _evidence("page", "--page", tmp_path)
    assert done.returncode == 0, done.stderr
    (cells,) = _cells((tmp_path / "README.md").read_text(), "no freeze, newest")
    assert cells[2:7] == ["2", "2", "100 [100, 100]", "1,000 (1 of 2 seeds)", f"{games} to 4"]


def test_the_criteria_of_the_plan_name_the_games_against_it(tmp_path: Path) -> None:
    """On Krull and Seaquest `paper` is below its parent by 20 ± 10, on CrazyClimber by 5 ± 10; Alien has one seed."""
    losses = {"Krull": (10, 30), "Seaquest": (10, 30), "CrazyClimber": (-5, 15), "Alien": (30,)}
    for game, found in losses.items():
        for seed, loss in enumerate(found):
            _run(tmp_path / "runs", "bounded", seed, 100, game=game)
            _run(tmp_path / "runs", "paper-a", seed, 100 - loss, game=game)
            _run(tmp_path / "runs", "uint8-a", seed, 102 + seed if game == "CrazyClimber" else 0, game=game)
    assert _evidence("page", "--page", tmp_path).returncode == 0
    page = (tmp_path / "README.md").read_text()
    assert _cells(page, "SEER in float32 is below")[0][1:] == ["**met**: Krull, Seaquest"] * 3
    assert _cells(page, "Compressed uint8 is not above")[0][1:] == ["not met: Krull, Seaquest"] * 3
    assert _cells(page, "Compressed uint4") == []  # no runs, so no verdict
    assert "On CrazyClimber it is training, last quarter." in page
    lines = {cells[1]: cells[2] for cells in _cells(page, "paper - bounded")}
    assert lines["Krull"] == "-20 ± 10 (0 of 2 above)"
    assert lines["Alien"] == "-30 (one seed)"
    assert lines["all games"] == "1 of 7 above"
    # Unrelated runs: the variances of both means, 0.5**2 and 10**2, add up.
    lines = {cells[1]: cells[2] for cells in _cells(page, "uint8 - paper")}
    assert lines["CrazyClimber"] == f"+8 ± {math.sqrt(0.5**2 + 10**2):.0f}"


def test_a_run_of_another_length_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        _run(tmp_path / "runs", "bounded", seed, 100)
    table = tmp_path / "runs" / "Krull__bounded__1" / "progress.csv"
    table.write_text(table.read_text().replace("\n1000,", "\n2000,"))
    done = _evidence("page", "--page", tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"evidence.py: {table.parent}: has 2,000 steps, where other runs of Krull have 1,000; "
        "collect it for another --page\n"
    )


def test_collecting_names_a_file_that_a_run_lacks(tmp_path: Path) -> None:
    """The training return of a run without `episodes.csv`, which an early version made, is not that of a quarter."""
    _run(tmp_path / "sweep", "bounded", 0, 100)
    lacking = tmp_path / "sweep" / "Krull__bounded__0" / "episodes.csv"
    lacking.unlink()
    done = _evidence("collect", tmp_path / "sweep", "--page", tmp_path / "page")
    line = f"evidence.py: {lacking}: cannot be read (No such file or directory); leave the run out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not (tmp_path / "page").exists()


def test_the_page_of_the_working_directory_has_its_name(tmp_path: Path) -> None:
    place = tmp_path / "freeze"
    _run(place / "runs", "bounded", 0, 100)
    done = _evidence("page", "--page", ".", cwd=place)
    assert done.returncode == 0, done.stderr
    title, _, about, *_ = (place / "README.md").read_text().splitlines()
    assert title == "# Freeze"
    assert "`python tools/evidence.py page --page docs/results/freeze`" in about


@pytest.mark.parametrize("name", ["control", "evidence", "freeze", "long"])
def test_the_committed_pages_are_those_of_the_committed_runs(name: str, tmp_path: Path) -> None:
    committed = RESULTS / name
    shutil.copytree(committed / "runs", tmp_path / name / "runs")
    done = _evidence("page", "--page", tmp_path / name)
    assert done.returncode == 0, done.stderr
    flag = " --page docs/results/evidence"  # of a page elsewhere
    assert (tmp_path / name / "README.md").read_text().replace(flag, "") == (committed / "README.md").read_text()
    tables = {path.name: path.read_text() for path in committed.glob("*.csv")}
    assert {path.name: path.read_text() for path in (tmp_path / name).glob("*.csv")} == tables


@pytest.mark.parametrize(
    ("steps", "dopamine", "paper"), [(100_000, True, False), (500_000, False, True), (1_000, False, False)]
)
def test_published_returns_are_beside_runs_of_their_length(
    steps: int, dopamine: bool, paper: bool, tmp_path: Path
) -> None:
    _run(tmp_path / "runs", "bounded", 0, 100)
    table = tmp_path / "runs" / "Krull__bounded__0" / "progress.csv"
    table.write_text(table.read_text().replace("\n1000,", f"\n{steps},"))
    assert _evidence("page", "--page", tmp_path).returncode == 0
    page, table = (tmp_path / "README.md").read_text(), tmp_path / "evaluation.csv"
    assert ("3,257 by Dopamine" in page, "2,216 by the paper's Rainbow" in page) == (dopamine, paper)
    assert ("Krull,published,dots,3257," in table.read_text()) is dopamine
    assert ("Krull,published,dots,3069," in table.read_text()) is paper


def test_the_returns_in_the_readme_are_on_the_page() -> None:
    page = (RESULTS / "evidence" / "README.md").read_text()
    (row,) = (line for line in README.read_text().splitlines() if "`tools/evidence.py`" in line)
    assert [number for number in re.findall(r"\d+,\d{3}", row) if number not in page] == []
