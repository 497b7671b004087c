"""The status of a run over HTTP: JSON for programs and a small page for people, both read-only (`--status-port`)."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from typing import Any

from seer_edge.config.values import address_of, family_of
from seer_runtime.system.http_answers import AnsweringHandler

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>seer-edge</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.3rem; }
  progress { width: 100%; height: 1rem; }
  table { border-collapse: collapse; width: 100%; }
  td { padding: .2rem 0; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
  td + td { text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1 id="title">seer-edge</h1>
<p id="line">waiting for the run ...</p>
<progress id="bar" max="1" value="0"></progress>
<table id="rows"></table>
<script>
  const shown = value => typeof value === "number" ? value.toLocaleString("en", {maximumFractionDigits: 3}) : value;
  async function refresh() {
    try {
      const status = await (await fetch("status.json", {cache: "no-store"})).json();
      document.getElementById("title").textContent = `${status.env}, ${status.algo}, seed ${status.seed}`;
      const [step, total] = [status.timesteps, status.total_timesteps];
      const age = status.age_seconds === null ? "" : `, ${shown(Math.round(status.age_seconds))} s ago`;
      document.getElementById("line").textContent = `${status.status}: step ${shown(step)} of ${shown(total)}${age}`;
      document.getElementById("bar").value = total ? step / total : 0;
      const table = document.getElementById("rows");
      table.replaceChildren(...Object.entries(status.row ?? {}).map(([name, value]) => {
        const row = document.createElement("tr");
        for (const text of [name, shown(value)]) row.insertCell().textContent = text;
        return row;
      }));
    } catch {
      document.getElementById("line").textContent = "the run does not answer";
    }
  }
  refresh();
  setInterval(refresh, 2000);
</script>
</html>
"""


class StatusPage:
    """A tracker that answers "/" with a page and "/status.json" with the newest figures.

    `describe` returns the content of `summary.json`. It is called where figures are logged, never by a request.
    `status` is called by each request. Raises OSError if the address cannot be used.

    Attributes:
        address: host and port that it listens on.

    """

    def __init__(
        self,
        place: str,
        total_timesteps: int,
        describe: Callable[[], Mapping[str, Any]],
        status: Callable[[], str],
    ) -> None:
        self._describe, self._status, self._total = describe, status, total_timesteps
        self._row: dict[str, float] | None = None
        self._summary: dict[str, Any] = dict(describe())
        self._at: float | None = None
        handler = type("StatusHandler", (_Handler,), {"page": self})
        host, port = address_of(place)
        kind = type("StatusServer", (ThreadingHTTPServer,), {"address_family": family_of(host)})
        self._server = kind((host, port), handler)
        self._server.daemon_threads = True
        self.address = (str(self._server.server_address[0]), int(self._server.server_address[1]))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write(self, row: Mapping[str, float]) -> None:
        """Show these figures from now on."""
        self._row, self._summary, self._at = dict(row), dict(self._describe()), time.monotonic()

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()

    def status(self) -> dict[str, Any]:
        """Return the summary with the status of now, the newest row of `progress.csv` and its age in seconds."""
        age = None if self._at is None else round(time.monotonic() - self._at, 1)
        now = {"status": self._status(), "total_timesteps": self._total, "age_seconds": age, "row": self._row}
        return {**self._summary, **now}


class _Handler(AnsweringHandler):
    page: StatusPage

    def found(self, path: str) -> tuple[str, str] | None:
        """See `AnsweringHandler`."""
        if path in ("/", "/index.html"):
            return PAGE, "text/html; charset=utf-8"
        if path == "/status.json":
            return json.dumps(self.page.status()), "application/json"
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a page that is open asks every two seconds."""
