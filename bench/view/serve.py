"""A site on this machine alone: a loopback server that makes pages when a browser asks for them."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from bench.view.pages import TYPES, Pages

LOOPBACK = "127.0.0.1"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' data:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
    )
)


def make_server(pages: Pages, port: int = 0) -> ThreadingHTTPServer:
    """A server of the pages, not started yet; `server_address` tells its port.

    Args:
        pages: the site.
        port: 0 takes a free one.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            path = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            found = pages.content(path) if host in (LOOPBACK, "localhost") else None  # no other site's name
            self.send_response(200 if found is not None else 404)
            suffix = PurePosixPath(path).suffix
            self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream") if found else "text/plain")
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            body = found if found is not None else b"There is no such page.\n"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the terminal is the user's."""

    return ThreadingHTTPServer((LOOPBACK, port), Handler)
