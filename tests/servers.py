"""A web server and a Hub on 127.0.0.1 for tests: they serve what they are given, and keep what they were asked."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """`files`: path -> bytes, or a function of the handler. `cut`: bytes after which bodies break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.cut: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        found = self.server.files.get(path)
        if callable(found):
            found(self)
        elif found is None:
            self.answer(404, b"no")
        else:
            self.send_file(found)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, data: bytes) -> None:
        """With an ETag, and the part asked for if that is still the ETag."""
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, ETag=etag)
            return
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range", etag) == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        end = start + self.server.cut.pop(0) if self.server.cut else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def make_hub(server: Server, repo: str) -> dict[str, bytes]:
    """Makes it a Hub with one repository, that takes commits and serves the files; they are in the dict returned."""
    kept: dict[str, bytes] = {}

    def say(value: object) -> Callable[[Handler], None]:
        return lambda handler: (
            handler.rfile.read(int(handler.headers.get("Content-Length", 0))),
            tell(handler, value),
        )[1]

    def tell(handler: Handler, value: object) -> None:
        handler.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def preupload(handler: Handler) -> None:
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked["files"]]
        tell(handler, {"files": modes})

    def commit(handler: Handler) -> None:
        for line in handler.rfile.read(int(handler.headers["Content-Length"])).splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                server.files[f"/{repo}/resolve/main/{entry['value']['path']}"] = kept[entry["value"]["path"]]
        url = f"{server.url}/{repo}/commit/{'a' * 40}"
        tell(handler, {"commitUrl": url, "commitOid": "a" * 40, "success": True})

    server.files |= {
        f"/{repo}/resolve/main/README.md": lambda handler: handler.answer(404, X_Error_Code="EntryNotFound"),
        "/api/repos/create": say({"url": f"{server.url}/{repo}", "id": repo}),
        f"/api/models/{repo}": say({"id": repo, "sha": "a" * 40}),
        f"/api/models/{repo}/revision/main": say({"id": repo, "sha": "a" * 40}),
        f"/api/models/{repo}/preupload/main": preupload,
        f"/api/models/{repo}/commit/main": commit,
        "/api/validate-yaml": say({"errors": [], "warnings": []}),
    }
    return kept
