"""A server for one listening test: it hands out the page, and keeps the results that come back.

The page is read once; no path that a client names is ever opened. Results are checked and stored under names of our own.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from mss.apps.listening.results import ResultError, checked, read_key
from mss.cli import UsageError
from mss.files import write_whole

__all__ = ["TestServer", "is_local"]

log = logging.getLogger(__name__)
MOST_BYTES = 1_000_000  # of one set of results; a hundred trials of twelve signals are a tenth of it
MOST_RESULTS = 10_000  # files; a disk is not filled by whoever finds the port
PATIENCE = 30  # seconds for which a client may say nothing


class TestServer(ThreadingHTTPServer):
    """Serves the test in a folder, and collects results in `results`, to be had at `url` once `serve_forever` runs.

    Args:
        folder: with index.html and test.json.
        results: folder, made if needed.
        host, port: where to listen; port 0 is a free one.
        say: is told of each set of results.

    Raises:
        UsageError: no test there, or nothing to listen on.
    """

    __test__ = False  # pytest: no tests in here
    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        results: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.key, self.results, self.say = read_key(folder), results, say
        try:
            self.page = (folder / "index.html").read_bytes()
            results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}; build the test first") from error
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"cannot listen on {host}, port {port} ({reason}): choose another --port or --host"
            ) from error

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}/"

    def keep(self, data: bytes) -> Path:
        """Checks results and stores them; the same ones sent again are stored once.

        Raises:
            ResultError: they are none of this test.
        """
        result = json.dumps(checked(data, self.key), indent=1, ensure_ascii=False).encode()
        path = self.results / f"{hashlib.sha256(result).hexdigest()[:32]}.json"
        if not path.exists():
            write_whole(path, result)
        return path


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server on that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    server: TestServer
    timeout = PATIENCE
    server_version, sys_version = "mss", ""

    def do_GET(self) -> None:
        if self._trusted():
            if urlsplit(self.path).path in ("/", "/index.html"):
                self._answer(200, self.server.page, "text/html; charset=utf-8")
            else:
                self._answer(404, b"There is only the listening test here, at /.")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if not self._trusted():
            return
        if urlsplit(self.path).path != "/results":
            self._answer(404, b"Results go to /results.")
            return
        # a page of another site cannot send this type without asking, and is not allowed to
        if self.headers.get_content_type() != "application/json":
            self._answer(415, b"Results are application/json.")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._answer(411, b"Say how long the results are, in Content-Length.")
            return
        if len(length) > 12 or int(length) > MOST_BYTES:
            self._answer(413, b"Results have at most %d bytes." % MOST_BYTES)
            return
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            self._answer(400, b"The results broke off.")
            return
        self._store(data)

    def _store(self, data: bytes) -> None:
        try:
            if sum(1 for _ in self.server.results.glob("*.json")) >= MOST_RESULTS:
                self._answer(507, b"There are too many results here already.")
                return
            path = self.server.keep(data)
        except ResultError as error:
            self._answer(400, str(error).encode())
        except OSError as error:
            log.error("results could not be stored: %s", error)
            self._answer(507, b"The results could not be stored: save them as a file.")
        else:
            self._answer(200, b'{"stored": true}', "application/json")
            self.server.say(f"results in {path}")

    def _trusted(self) -> bool:
        """Whether this is asked of us by our own name: not by way of a name that a foreign page had point here."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host", "")
        if origin is not None and urlsplit(origin).netloc != host:
            self._answer(403, b"This page may not send here.")
            return False
        if is_local(self.server.server_address[0]) and not is_local(urlsplit(f"//{host}").hostname or ""):
            self._answer(403, b"This server answers to 127.0.0.1 and localhost only.")
            return False
        return True

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
        headers |= {"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing: who asked is nobody's business."""
