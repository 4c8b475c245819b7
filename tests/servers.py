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

SIGNATURE = "signed-for-one-hour"  # in addresses that a Hub hands out


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


def body(handler: Handler) -> bytes:
    """What came with a request, in one piece or in chunks."""
    if "Content-Length" in handler.headers:
        return handler.rfile.read(int(handler.headers["Content-Length"]))
    parts = []
    while size := int(handler.rfile.readline(), 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def read(handler: Handler) -> dict:
    return json.loads(body(handler))


def make_hub(server: Server, repo: str, *, large: int | None = None, part: int | None = None) -> dict[str, bytes]:
    """Makes it a Hub with one repository, that takes commits and serves the files; they are in the dict returned.

    Args:
        server: which becomes the Hub; where its `files` say already what is done with a blob, that is done.
        repo: owner/name.
        large: bytes from which a file goes by git-LFS; None: none does.
        part: bytes of which such a file is sent at a time; None: it is sent whole.
    """
    kept: dict[str, bytes] = {}
    stored: dict[str, bytes] = {}  # SHA-256 -> what came by git-LFS and was verified or completed
    came: dict[str, bytes] = {}

    def say(value: object) -> Callable[[Handler], None]:
        return lambda handler: (
            handler.rfile.read(int(handler.headers.get("Content-Length", 0))),
            tell(handler, value),
        )[1]

    def tell(handler: Handler, value: object) -> None:
        handler.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def preupload(handler: Handler) -> None:
        asked = read(handler)
        modes = [
            {"path": f["path"], "uploadMode": "regular" if large is None or f["size"] < large else "lfs", "shouldIgnore": False}
            for f in asked["files"]
        ]  # fmt: skip
        tell(handler, {"files": modes})

    def batch(handler: Handler) -> None:
        """git-lfs/docs/api/batch.md, and the Hub's own way of sending a file in parts."""
        asked = read(handler)
        assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
        objects = []
        for one in asked["objects"]:
            upload: dict = {"href": f"{server.url}/blobs/{one['oid']}?X-Signature={SIGNATURE}"}
            server.files.setdefault(f"/blobs/{one['oid']}", lambda h, oid=one["oid"]: take(h, oid))
            if part is not None:
                numbers = range(1, -(-one["size"] // part) + 1)
                parts = {str(i): f"{server.url}/blobs/{one['oid']}/{i}?X-Signature={SIGNATURE}" for i in numbers}
                upload = {"href": f"{server.url}/complete", "header": {"chunk_size": str(part), **parts}}
                for i in numbers:
                    server.files[f"/blobs/{one['oid']}/{i}"] = lambda h, key=f"{one['oid']}/{i}": take(h, key)
            objects.append({**one, "actions": {"upload": upload, "verify": {"href": f"{server.url}/verify"}}})
        tell(handler, {"transfer": "basic" if part is None else "multipart", "objects": objects})

    def take(handler: Handler, key: str) -> None:
        assert handler.command == "PUT"
        came[key] = body(handler)
        handler.answer(200, ETag=f'"{hashlib.md5(came[key]).hexdigest()}"')

    def complete(handler: Handler) -> None:
        asked = read(handler)
        parts = [came[f"{asked['oid']}/{one['partNumber']}"] for one in asked["parts"]]
        came[asked["oid"]] = b"".join(parts)
        tell(handler, {})

    def verify(handler: Handler) -> None:
        asked = read(handler)
        data = came.get(asked["oid"], b"")
        if hashlib.sha256(data).hexdigest() != asked["oid"] or len(data) != asked["size"]:
            handler.answer(422)
            return
        stored[asked["oid"]] = data
        tell(handler, {})

    def commit(handler: Handler) -> None:
        for line in handler.rfile.read(int(handler.headers["Content-Length"])).splitlines():
            entry = json.loads(line)
            if entry["key"] in ("file", "lfsFile"):
                value = entry["value"]
                path = value["path"]
                kept[path] = stored[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
                server.files[f"/{repo}/resolve/main/{path}"] = kept[path]
        url = f"{server.url}/{repo}/commit/{'a' * 40}"
        tell(handler, {"commitUrl": url, "commitOid": "a" * 40, "success": True})

    server.files |= {
        f"/{repo}/resolve/main/README.md": lambda handler: handler.answer(404, X_Error_Code="EntryNotFound"),
        "/api/repos/create": say({"url": f"{server.url}/{repo}", "id": repo}),
        f"/api/models/{repo}": say({"id": repo, "sha": "a" * 40}),
        f"/api/models/{repo}/revision/main": say({"id": repo, "sha": "a" * 40}),
        f"/api/models/{repo}/preupload/main": preupload,
        f"/api/models/{repo}/commit/main": commit,
        f"/{repo}.git/info/lfs/objects/batch": batch,
        "/complete": complete,
        "/verify": verify,
        "/api/validate-yaml": say({"errors": [], "warnings": []}),
    }
    return kept
