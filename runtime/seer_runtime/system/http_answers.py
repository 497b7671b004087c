"""Answers of a small HTTP server. Import it only where one is started, because `http.server` takes memory."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler


class AnsweringHandler(BaseHTTPRequestHandler):
    """Answers requests with the texts of `found`, which must not be cached."""

    def found(self, path: str) -> tuple[str, str] | None:
        """Return the text at `path` and its content type, or None if there is nothing."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer a request."""
        found = self.found(self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        text, kind = found
        body = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
