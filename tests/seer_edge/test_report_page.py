"""The page of a report needs nothing outside itself, and each of its figures has files."""

import csv
import io
import json
import re
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seer_edge.errors import BadInputError
from seer_edge.reports.build import ReportOptions, write_report
from seer_edge.reports.scores import Point
from seer_edge.reports.serve import LiveReport, server_of
from tests.seer_edge.report_runs import make_run

pytestmark = pytest.mark.integration

END = Point()


class Page(HTMLParser):
    """The attributes of all elements, the ids, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of six runs of two games and its figures."""
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / f"f{seed}", seed, 100.0 + seed) for seed in range(2)]
    runs += [make_run(folder / f"n{seed}", seed, 50.0, freeze_at=None) for seed in range(2)]
    runs += [make_run(folder / "q", 0, 30.0, env_name="Qbert"), make_run(folder / "odd", 7, 1.0, env_name='<b>&"Own')]
    write_report(ReportOptions(tuple(runs), END, folder / "figures"), folder / "report.html")
    return folder


def test_the_page_names_no_address_outside_itself(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    ids = [value for name, value in page.attributes if name == "id"]
    targets = [value for name, value in page.attributes if name in ("href", "src", "xlink:href", "srcset", "data")]
    assert targets
    assert [target for target in targets if not target.startswith("#") or target[1:] not in ids] == []
    assert re.findall(r"url\((?!#)", text) == []
    assert not re.search(r"https?:|@import|//[a-z]", text)


def test_the_page_draws_with_colors_that_dark_mode_changes(written: Path) -> None:
    text = (written / "report.html").read_text()
    body = text[text.index("<body>") :]
    assert set(re.findall(r"#[0-9a-f]{6}\b", body)) == set()
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    assert {"--color-0", "--color-1", "--ink", "--grid"} <= used
    dark = text[text.index("prefers-color-scheme: dark") :]
    assert {name for name in used if f"{name}: " not in dark} == set()


def test_each_figure_has_its_picture_and_its_points(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    sections = {value for name, value in page.attributes if name == "id"}
    figures = {path.stem for path in (written / "figures").glob("*.csv")}
    assert figures == {path.stem for path in (written / "figures").glob("*.png")}
    returns = {"returns_steps", "returns_seconds", "returns_flops"}
    assert figures == returns | {"memory", "capacity", "scores", "last_quarter", "normalized"}
    assert figures <= sections
    for name in figures:
        assert (written / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.DictReader(io.StringIO((written / "figures" / f"{name}.csv").read_text())))
        assert {row["panel"].partition(":")[0] for row in rows} >= {"Alien", "Qbert"}


def test_every_seed_is_a_dot(written: Path) -> None:
    rows = list(csv.DictReader((written / "figures" / "scores.csv").read_text().splitlines()))
    dots = [(row["panel"], row["y"], float(row["x"])) for row in rows if row["style"] == "dots"]
    assert sorted(dots) == [
        ('<b>&"Own', "frozen", 1.0),
        ("Alien", "frozen", 100.0),
        ("Alien", "frozen", 101.0),
        ("Alien", "never frozen", 50.0),
        ("Alien", "never frozen", 50.0),
        ("Qbert", "frozen", 30.0),
    ]
    papers = {(row["panel"], row["y"]): float(row["x"]) for row in rows if row["style"] == "paper"}
    assert papers == {("Alien", "frozen"): 1134.6, ("Alien", "never frozen"): 1038.4, ("Qbert", "frozen"): 3231.0}


def test_the_freeze_is_marked_over_steps_seconds_and_flops(written: Path) -> None:
    for name, place in (("steps", 4000.0), ("seconds", 240.0), ("flops", 4e12)):
        rows = csv.DictReader((written / "figures" / f"returns_{name}.csv").read_text().splitlines())
        assert {float(row["x"]) for row in rows if row["style"] == "freeze"} == {place}
    rows = csv.DictReader((written / "figures" / "memory.csv").read_text().splitlines())
    assert {(row["series"], float(row["x"])) for row in rows if row["style"] == "freeze"} == {("", 4000.0)}


def test_runs_of_different_games_are_never_averaged_raw(written: Path) -> None:
    scores, normalized = Page((written / "report.html").read_text()).tables[:2]
    assert [line[:4] for line in scores[1:]] == [
        ["Alien", "frozen", "2", "100.5 [100.0, 101.0]"],
        ["Alien", "never frozen", "2", "50.0 [50.0, 50.0]"],
        ["Qbert", "frozen", "1", "30.0"],
        ['<b>&"Own', "frozen", "1", "1.00"],
    ]
    assert [line[:3] for line in normalized[1:]] == [["frozen", "2", "3"]]


def _last_table(path: Path) -> list[list[str]]:
    return Page(path.read_text()).tables[-1]


def test_an_unfinished_run_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="interrupted")
    (run / "progress.csv").write_text((run / "progress.csv").read_text() + "11000,1")  # a line being written
    (run / "summary.json").unlink()
    content = write_report(ReportOptions((run,), END), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert content.runs[0].last_step == 10_000
    assert "1 of 1 runs is unfinished." in text
    assert "unfinished (no summary)" in Page(text).tables[-1][1]


@pytest.mark.parametrize("damaged", ['{"status": "fin', "[]"])
def test_a_run_with_a_damaged_summary_says_so(damaged: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text(damaged)
    write_report(ReportOptions((run,), END), tmp_path / "r.html")
    assert "unfinished (summary.json cannot be read)" in _last_table(tmp_path / "r.html")[1]


def test_a_run_without_a_row_yet_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    for name in ("progress.csv", "episodes.csv", "summary.json"):
        (run / name).unlink()
    write_report(ReportOptions((run,), END), tmp_path / "r.html")
    assert _last_table(tmp_path / "r.html")[1][3:6] == ["0 of 10,000", "–", "no evaluation up to the point"]


def test_following_serves_the_page_and_its_changes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    pages: list[str] = []
    report = LiveReport(ReportOptions((run,), END), pages.append)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/{path}", timeout=120) as answer:
            return str(answer.read().decode())

    with server_of(report, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first, version = get(""), get("version")
        assert json.dumps(version) in first
        assert get("version") == version
        (run / "summary.json").write_text(json.dumps({"status": "finished"}))
        assert get("version") != version
        assert "unfinished" in first
        assert "unfinished" not in get("")
        (run / "progress.csv").write_text("half a table\n1,2\n")
        assert "unfinished" not in get("")  # the last page
        with pytest.raises(urllib.error.HTTPError):
            get("../config.json")
        with pytest.raises(BadInputError, match=r"--port \d+: cannot be used"):
            server_of(report, int(server.server_address[1]))
        server.shutdown()
    assert len(pages) == 2
    assert all("<script>" not in page for page in pages)


def test_following_shows_the_page_although_its_file_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run", status="running")
    errors = [BadInputError("-o report.html: cannot be written (disk full)")]

    def write(page: str) -> None:
        if errors:
            raise errors[0]

    with pytest.raises(BadInputError):  # before anything is served
        LiveReport(ReportOptions((run,), END), write)
    error = errors.pop()
    report = LiveReport(ReportOptions((run,), END), write)
    errors.append(error)
    (run / "summary.json").write_text(json.dumps({"status": "finished"}))
    assert "unfinished" not in report.page()
    assert [record.getMessage() for record in caplog.records] == [str(error)]
