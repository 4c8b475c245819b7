"""One file from a web server: whole, checked, and continued where it was interrupted (RFC 9110, 13.1.5).

Only https is spoken, and http to this machine; redirects are followed as far as that holds. What a server calls a file is
not heard, and its size is looked at before anything is written.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from mss.files import write_whole

__all__ = [
    "LIMIT",
    "DownloadError",
    "Transfer",
    "UnreachableError",
    "check_url",
    "facts_of",
    "quoted",
    "sha256_of",
    "shown",
]

LIMIT = 4 << 30  # bytes; the largest separators have half of it
HERE = ("localhost", "127.0.0.1", "::1")
REDIRECTS, ATTEMPTS, BLOCK = 5, 5, 1 << 20
TIMEOUT, TIMEOUT_OF_CHECK = 30.0, 5.0  # seconds without a byte; the second where the file is there already


class DownloadError(ValueError):
    """An address that is refused, or a file that could not be fetched whole."""


class UnreachableError(DownloadError):
    """No answer, or one that may be better another time."""


class Transfer:
    """Brings one file to its place, in as many attempts as it takes while there is progress.

    Args:
        url: https, or http of this machine.
        path: where the file appears when it is whole; its folder is there.
        sha256: what its digest begins with.
        token: for the host of `url` and no other.
        known: `facts_of` an older version that is at `path`; nothing is fetched if the server has no other.
        limit: bytes, above which nothing is kept.
    """

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        token: str | None = None,
        known: dict[str, Any] | None = None,
        limit: int = LIMIT,
    ) -> None:
        self.url, self.path, self.sha256, self.token, self.known, self.limit = url, path, sha256, token, known, limit
        self.part = path.with_name(f".{path.name}.part")
        self.note = path.with_name(f".{path.name}.part.json")
        self.shown = shown(url)

    def run(self) -> None:
        """Raises DownloadError, UnreachableError if it may be better another time; OSError where it cannot be written."""
        failures = 0
        while True:
            before = self.received
            try:
                if not self._attempt():
                    return  # unchanged
                break
            except UnreachableError:
                failures = 1 if self.received > before else failures + 1
                if self.known or failures == ATTEMPTS or (failures > 1 and not self.received):
                    raise
                time.sleep(0.1 * 2**failures)
        found = sha256_of(self.part)
        if self.sha256 and not found.startswith(self.sha256):
            self._forget()
            raise DownloadError(
                f"{self.shown}: its SHA-256 is {found}, not {self.sha256}: damaged or another file, not kept"
            )
        os.replace(self.part, self.path)
        facts = {"url": self.shown, "etag": self.etag, "sha256": found}
        write_whole(_facts_path(self.path), json.dumps(facts).encode())
        self._forget()

    @property
    def received(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _forget(self) -> None:
        for path in (self.part, self.note):
            path.unlink(missing_ok=True)

    def _attempt(self) -> bool:
        """Receives what is missing; False: what is there is what the server has."""
        headers = {"User-Agent": "mss", "Accept-Encoding": "identity"}
        validator = _read_json(self.note).get("validator")
        if self.received and validator:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": validator}
        elif self.known and self.known.get("etag"):
            headers["If-None-Match"] = self.known["etag"]
        response = self._answer(headers)
        if response is None:
            return False
        with response:
            if response.status == 206 and not self._goes_on(response):
                self._forget()
                raise UnreachableError(f"{self.shown}: the server sent another part than it was asked for")
            start = self.received if response.status == 206 else 0
            stated = response.headers.get("Content-Length", "")
            total = start + int(stated[:19]) if stated.isdecimal() else None  # more digits are too many bytes anyway
            self._check_size(total or 0, start)
            self.etag = response.headers.get("ETag")
            if self.known and self.etag and self.etag == self.known.get("etag"):
                return False
            strong = self.etag if self.etag and not self.etag.startswith("W/") else None
            write_whole(self.note, json.dumps({"validator": strong or response.headers.get("Last-Modified")}).encode())
            self._receive(response, start, total)
        return True

    def _goes_on(self, response: http.client.HTTPResponse) -> bool:
        return response.headers.get("Content-Range", "").startswith(f"bytes {self.received}-")

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        done, told = start, 0.0
        with self.part.open("ab" if start else "wb") as file:
            while True:
                try:
                    block = response.read(BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise UnreachableError(f"{self.shown}: broke off ({_reason(error)})") from error
                if not block:
                    break
                done += len(block)
                if done > self.limit:
                    file.close()
                    self._forget()
                    raise DownloadError(f"{self.shown}: more than the {self.limit} bytes that are allowed, not kept")
                file.write(block)
                if sys.stderr.isatty() and time.monotonic() > told + 0.2:
                    told = time.monotonic()
                    of = f" of {total / 1e6:.0f}" if total else ""
                    sys.stderr.write(f"\r{self.path.name}: {done / 1e6:.0f}{of} MB ")
            if told:
                sys.stderr.write("\n")
        if total is not None and done < total:
            raise UnreachableError(f"{self.shown}: broke off after {done} of {total} bytes")

    def _check_size(self, total: int, start: int) -> None:
        if total > self.limit:
            raise DownloadError(f"{self.shown}: {total} bytes, more than the {self.limit} that are allowed")
        free = shutil.disk_usage(self.part.parent).free
        if total - start > free:
            raise DownloadError(f"{self.shown}: {total - start} bytes, but only {free} are free at {self.part.parent}")

    def _answer(self, headers: dict[str, str]) -> http.client.HTTPResponse | None:
        """The response after redirects; None: unchanged."""
        url = self.url
        for _ in range(REDIRECTS + 1):
            request = urllib.request.Request(url, headers=headers)
            if self.token and _origin(url) == _origin(self.url):
                request.add_header("Authorization", f"Bearer {self.token}")
            try:
                return _opener(url).open(request, timeout=TIMEOUT_OF_CHECK if self.known else TIMEOUT)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 304 and self.known:
                        return None
                    if error.code == 416:  # what is left of another version
                        self._forget()
                        raise UnreachableError(f"{self.shown}: has changed meanwhile") from None
                    if error.code not in (301, 302, 303, 307, 308):
                        raise self._refusal(error.code) from None
                    linked = (error.headers.get("X-Linked-Etag") or "").strip('"')  # the Hub's SHA-256 of large files
                    if re.fullmatch("[0-9a-f]{64}", linked) and _origin(url) == _origin(self.url):
                        if self.known and self.known.get("sha256") == linked:
                            return None
                        self.sha256 = self.sha256 or linked
                    url = self._redirected(url, error.headers.get("Location") or "")
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError(f"{self.shown}: cannot be reached ({_reason(error)})") from error
        raise DownloadError(f"{self.shown}: redirects more than {REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = quoted(urljoin(url, location))
        except ValueError:
            raise DownloadError(f"{self.shown} redirects to an address that cannot be read") from None
        check_url(target, f"{self.shown} redirects to ")
        if url.startswith("https:") and not target.startswith("https:"):
            raise DownloadError(f"{self.shown} redirects to {shown(target)}: only https is followed")
        return target

    def _refusal(self, code: int) -> DownloadError:
        if code in (401, 403):
            return DownloadError(
                f"{self.shown}: not there, or not for everyone (HTTP {code}): for a private one set HF_TOKEN"
            )
        if code in (404, 410):
            return DownloadError(
                f"{self.shown}: not there (HTTP {code}): check the names of repository, revision and file"
            )
        kind = UnreachableError if code in (408, 429) or code >= 500 else DownloadError
        return kind(f"{self.shown}: the server answers HTTP {code}")


def facts_of(path: Path) -> dict[str, Any] | None:
    """What is known of a fetched file: url, etag, sha256; None: it was put there by hand."""
    return _read_json(_facts_path(path)) or None


def _facts_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def quoted(url: str) -> str:
    """The address in the letters that may be sent."""
    return quote(url, safe="%/:=&?~+!$,;'@()*[]")


def check_url(url: str, preface: str = "") -> None:
    """Refuses all but https, and http to this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise DownloadError(f"{preface}an address that cannot be read") from None
    if not (parts.scheme == "https" and host) and not (parts.scheme == "http" and host in HERE):
        raise DownloadError(f"{preface}{shown(url)}: only https:// is fetched (http:// from this machine only)")
    if parts.username is not None:
        raise DownloadError(f"{preface}{shown(url)}: a name or password in an address is not sent: leave it out")


def shown(url: str) -> str:
    """For messages: no password, and no query, where signatures are."""
    head, separator, rest = url.partition("?")[0].partition("#")[0].partition("://")
    host, slash, path = rest.partition("/")
    text = f"{head}{separator}{host.rpartition('@')[2]}{slash}{path}"
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Speaks http and https and nothing else, follows no redirect by itself, and asks no proxy for this machine."""
    opener = urllib.request.OpenerDirector()
    handlers = [urllib.request.HTTPHandler, urllib.request.HTTPSHandler]
    handlers += [urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor]
    for handler in handlers:
        opener.add_handler(handler())
    opener.add_handler(urllib.request.ProxyHandler({} if urlsplit(url).hostname in HERE else None))
    return opener


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())[:200]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
        return digest.hexdigest()
