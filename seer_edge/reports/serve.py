"""Serve a report on this machine, and refresh it while its runs continue."""

import logging
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from seer_edge.errors import BadInputError
from seer_edge.reports.build import ReportOptions, content_of, version_of
from seer_edge.reports.page import Content, render
from seer_runtime.system.http_answers import AnsweringHandler

LOG = logging.getLogger(__name__)
HOST = "127.0.0.1"


class LiveReport:
    """Renders the page again when the runs have changed since the last time."""

    def __init__(self, options: ReportOptions, on_render: Callable[[str], object] | None = None) -> None:
        """`on_render` receives each new page, as its own file. Raises BadInputError if the runs cannot be read."""
        self._options, self._on_render = options, on_render
        self._lock = threading.Lock()
        self._version = self._page = ""
        self.page()

    @property
    def version(self) -> str:
        """A text that changes when the page would."""
        return version_of(self._options.runs)

    def page(self) -> str:
        """Return the page of the runs as they are now. Keeps the last one if a run cannot be read at the moment.

        Raises BadInputError at the first call only. Later a file that cannot be written is a warning too.
        """
        with self._lock:
            version = self.version
            if version != self._version or not self._page:
                try:
                    content = content_of(self._options)
                except BadInputError as error:
                    if not self._page:
                        raise
                    LOG.warning("%s; showing the last page", error)
                else:
                    is_first = not self._page
                    self._page, self._version = render(content, live=version), version
                    self._write(content, is_first)
            return self._page

    def _write(self, content: Content, is_first: bool) -> None:
        if self._on_render is None:
            return
        try:
            self._on_render(render(content))
        except BadInputError as error:
            if is_first:
                raise
            LOG.warning("%s", error)


class Handler(AnsweringHandler):
    """Answers "/" with the page and "/version" with its version."""

    report: LiveReport

    def found(self, path: str) -> tuple[str, str] | None:
        """See `AnsweringHandler`."""
        if path in ("/", "/index.html"):
            return self.report.page(), "text/html; charset=utf-8"
        if path == "/version":
            return self.report.version, "text/plain; charset=utf-8"
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request as a detail."""
        LOG.debug(format, *args)


def server_of(report: LiveReport, port: int) -> ThreadingHTTPServer:
    """Return a server of the report on this machine only; port 0 selects a free one. Raises BadInputError."""
    handler = type("ReportHandler", (Handler,), {"report": report})
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise BadInputError(f"--port {port}: cannot be used ({error.strerror}); give another, or 0 for any") from error
