"""The status page of a run: its content, who can read it, and its end."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from seer_edge.config.values import address_of, parse_status_port
from seer_edge.training.status_page import StatusPage

SUMMARY = {"env": "Pole-v0", "algo": "rainbow", "seed": 3, "status": "running", "timesteps": 0, "eval": None}


@pytest.fixture
def summary() -> dict[str, Any]:
    return dict(SUMMARY)


@pytest.fixture
def page(summary: dict[str, Any]) -> Iterator[StatusPage]:
    with closing(StatusPage("0", 500, lambda: summary, lambda: "running")) as page:
        yield page


def _get(page: StatusPage, path: str) -> tuple[str, str]:
    host, port = page.address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_it_shows_the_newest_row_and_its_age(page: StatusPage, summary: dict[str, Any]) -> None:
    kind, text = _get(page, "/status.json")
    assert kind == "application/json"
    assert json.loads(text) == {**SUMMARY, "total_timesteps": 500, "age_seconds": None, "row": None}
    summary["timesteps"] = 20
    assert json.loads(_get(page, "/status.json")[1])["timesteps"] == 0, "the summary is renewed with each row"
    page.write({"time/total_timesteps": 20, "train/loss": 0.5})
    shown = json.loads(_get(page, "/status.json")[1])
    assert (shown["timesteps"], shown["row"]) == (20, {"time/total_timesteps": 20, "train/loss": 0.5})
    assert 0 <= shown["age_seconds"] < 60


def test_a_pause_is_shown_at_once(summary: dict[str, Any]) -> None:
    status = [""]
    with closing(StatusPage("0", 500, lambda: summary, lambda: status[0])) as page:
        for status[0] in ("paused", "running"):
            assert json.loads(_get(page, "/status.json")[1])["status"] == status[0]


def test_it_answers_only_to_this_machine_and_only_reads(page: StatusPage) -> None:
    assert page.address[0] == "127.0.0.1"
    kind, text = _get(page, "/")
    assert kind.startswith("text/html")
    assert "status.json" in text
    host, port = page.address
    for method, path, status in (("GET", "/config.json", 404), ("GET", "/../etc/passwd", 404), ("POST", "/", 501)):
        request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)
        assert error.value.code == status


def test_a_port_in_use_is_an_error_and_a_closed_page_frees_it(summary: dict[str, Any]) -> None:
    first = StatusPage("0", 500, lambda: summary, lambda: "running")
    port = first.address[1]
    with pytest.raises(OSError, match="in use"):
        StatusPage(str(port), 500, lambda: summary, lambda: "running")
    first.close()
    StatusPage(str(port), 500, lambda: summary, lambda: "running").close()


def test_it_answers_at_an_address_of_ipv6(summary: dict[str, Any]) -> None:
    with closing(StatusPage("[::1]:0", 500, lambda: summary, lambda: "running")) as page:
        host, port = page.address
        with urllib.request.urlopen(f"http://[{host}]:{port}/status.json", timeout=30) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:7", ("::1", 7)),
        ("pi.local:0", ("pi.local", 0)),
    ],
)
def test_an_address_is_a_port_or_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert address_of(parse_status_port(text)) == address


@pytest.mark.parametrize("text", ["", "web", "70000", "-1", ":80", "host:", "1.2.3.4", "８０"])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a port; write 8080"):
        parse_status_port(text)
