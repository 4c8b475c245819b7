"""What stands before the web demo: only what its page needs gets through, and no path but that of an upload.

gradio serves more than a demo should, such as files by their path and a proxy, and fetches what a client names as a file;
here these end before gradio sees them.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mss.apps.listening.server import is_local

__all__ = ["Guard", "Limits"]

READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static)/.+|(sound|page)/[\w-]+)"
    r"|/gradio_api/(queue/data|upload_progress|theme\.css|startup-events|heartbeat/\w+)",
    re.ASCII,
)
SEND = re.compile(r"/gradio_api/(queue/join|run/predict|upload|cancel|reset)/?", re.ASCII)
CALL = re.compile(r"/gradio_api/(queue/join|run/predict|cancel|reset)/?", re.ASCII)
MOST_CALL = 100_000  # bytes of a call, which holds some numbers and names
FORM = 10_000  # bytes that a form adds to a file
BROKEN_OFF = 600.0  # seconds without a byte after which an upload is over
FULL = 20  # uploads of the largest size that are kept at a time
POLICY = (
    # gradio's page has scripts in it, and makes functions of templates
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self'; connect-src 'self'; frame-src 'self'; "
    "manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "SAMEORIGIN",
}


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Args:
        megabytes: of a file.
        minutes: of a song.
        queue: jobs that wait, of all visitors.
    """

    megabytes: float = 200.0
    minutes: float = 10.0
    queue: int = 10

    @property
    def bytes(self) -> int:
        return round(self.megabytes * 1e6)

    @property
    def seconds(self) -> float:
        return 60 * self.minutes


class Guard:
    """ASGI middleware that answers what is not wanted with a sentence.

    Args:
        app: what it stands before.
        host: that the server listens on; of this machine alone, it answers to no other name.
        limits: of uploads.
        folder: where uploads go.
        uploads: gives the paths of the files that were uploaded: the only ones that a client may name.
    """

    def __init__(
        self, app: Any, *, host: str, limits: Limits, folder: Path, uploads: Callable[[], Collection[Any]]
    ) -> None:
        self.app, self.local, self.limits, self.folder, self.uploads = app, is_local(host), limits, folder, uploads

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope["method"], scope["path"], headers)
        body = None
        if refused is None and CALL.fullmatch(scope["path"]):
            body = b""
            while len(body) <= MOST_CALL:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            refused, body = self._checked(body)
        if refused is not None:
            return await self._answer(send, *refused)
        waiting = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> dict:
            return waiting.pop() if waiting else await receive()

        async def dressed(message: dict) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                extra = (
                    HEADERS if b"content-security-policy" in given else HEADERS | {"Content-Security-Policy": POLICY}
                )
                own = [
                    (name.encode(), value.encode())
                    for name, value in extra.items()
                    if name.lower().encode() not in given
                ]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if body is not None:
            kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
            scope = {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
        return await self.app(scope, again, dressed)

    def _refused(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence, or None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and not is_local(urlsplit(f"//{host}").hostname or ""):
            return 403, "This server answers to 127.0.0.1 and localhost only."
        if origin is not None and origin != "null" and urlsplit(origin).netloc != host:
            return 403, "This page may not send here."
        if origin == "null" and method != "GET":
            return 403, "This page may not send here."
        allowed = READ if method in ("GET", "HEAD") else SEND if method == "POST" else None
        if allowed is None or ".." in path or "\\" in path or "\0" in path or not allowed.fullmatch(path):
            return 404, "There is only the demo here, at /."
        if method == "POST" and path.startswith("/gradio_api/upload"):
            return self._too_large(headers.get("content-length", ""))
        return None

    def _too_large(self, length: str) -> tuple[int, str] | None:
        if not (length.isascii() and length.isdigit()):
            return 411, "Say how long the file is, in Content-Length."
        if len(length) > 15 or int(length) > self.limits.bytes + FORM:
            return 413, f"The file is too large: at most {self.limits.megabytes:g} MB are taken."
        kept = 0
        for file in self.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                if file.parent == self.folder and file.is_file() and time.time() - stat.st_mtime > BROKEN_OFF:
                    file.unlink()  # gradio leaves what broke off
                else:
                    kept += stat.st_size
        if kept + int(length) > FULL * self.limits.bytes:
            return 507, "Too many files are kept here just now: try again later."
        return None

    def _checked(self, body: bytes) -> tuple[tuple[int, str] | None, bytes]:
        """A call as JSON without doubt, if all files in it were uploaded."""
        if len(body) > MOST_CALL:
            return (413, "That is more than a call holds."), b""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return (400, "A call is JSON."), b""
        known = {str(path) for path in self.uploads()}
        if not all(path in known for path in _paths(call)):
            return (403, "That file was not uploaded."), b""
        return None, json.dumps(_without_urls(call)).encode()

    async def _answer(self, send: Callable, status: int, text: str) -> None:
        body = json.dumps({"detail": text}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **HEADERS,
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


def _paths(value: Any) -> list[Any]:
    """All that a call names as a file; None for one that has no path."""
    if isinstance(value, dict):
        own = [value.get("path")] if value.keys() & {"path", "meta", "url", "orig_name"} else []
        return own + [path for one in value.values() for path in _paths(one)]
    return [path for one in value for path in _paths(one)] if isinstance(value, list) else []


def _without_urls(value: Any) -> Any:
    """A call whose files have no address, which might be fetched."""
    if isinstance(value, dict):
        return {name: _without_urls(one) for name, one in value.items() if name != "url"}
    return [_without_urls(one) for one in value] if isinstance(value, list) else value
