"""A web server on this machine that serves one file: with ranges, cut short, or a web page in its place."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from defenses.models.download import CHUNK

FILE = bytes(range(256)) * 4096 * 3  # three chunks
SHA256 = hashlib.sha256(FILE).hexdigest()
QUOTA = b"\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>Too many users have viewed"
OTHERS = {"/page": QUOTA, "/error": b'{"error": "rate limit"}', "/empty": b"", "/longer": FILE + b"more"}


class Server(ThreadingHTTPServer):
    """What it was asked for, and how many answers of /broken are still cut short."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.cuts = 0
        self.etag: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *values: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/gone":
            return self.send_error(404)
        content = OTHERS.get(self.path, FILE)
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.path != "/whole" else 0
        if asked and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.server.etag is not None:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        cut = self.path == "/broken" and self.server.cuts > 0
        self.server.cuts -= cut
        self.wfile.write(content[start : start + CHUNK] if cut else content[start:])


@contextmanager
def serving() -> Iterator[Server]:
    """A running server, for as long as the block lasts."""
    server = Server()
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
