"""Checkpoints from the Hugging Face Hub or any web server, kept in a folder and fetched once.

An address is `https://host/file`, with `#sha256=DIGEST` (at least 8 digits) if its digest is known, or
`hf:owner/repo[@revision][/file]`. The name of what is written follows from the address alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from mss.download import LIMIT, DownloadError, Transfer, UnreachableError, check_url, facts_of, quoted, sha256_of, shown

__all__ = [
    "DEFAULT_FILE",
    "PLAIN",
    "DownloadError",
    "endpoint",
    "fetch",
    "hub_parts",
    "is_address",
    "is_damaged",
    "locate",
    "offline",
    "without_secrets",
]

DEFAULT_FILE = "model.safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".th", ".pkl", ".pickle", ".bin")
PART = r"(?!\.)[A-Za-z0-9._-]+"  # of a path: not .., not hidden, nothing that a shell or a file system takes amiss
PLAIN = re.compile(PART)
HUB = re.compile(
    rf"hf:(?P<repo>{PART}/{PART})(?:@(?P<revision>(?!\.)[\w.%-]+))?(?:/(?P<file>{PART}(?:/{PART})*))?", re.ASCII
)


@dataclass(frozen=True)
class Place:
    """Where a file comes from and where it is kept; `fixed`: the address names contents that never change."""

    url: str
    path: Path
    sha256: str | None = None
    fixed: bool = False
    token: str | None = None

    def __repr__(self) -> str:  # the generated one would show the token
        return f"Place({shown(self.url)}, {self.path})"


def is_address(name: str) -> bool:
    """Whether a name is an address, right or wrong, rather than a path or a name."""
    return name.startswith("hf:") or "://" in name


def locate(address: str, folder: Path) -> Place:
    """Reads an address; nothing is fetched.

    Raises:
        DownloadError: not an address that is served.
    """
    if not address.startswith("hf:"):
        return _web(address, folder / "http")
    repo, revision, file = hub_parts(address)
    _refuse_pickles(address, file)
    name = quote(revision, safe="")
    path = folder / "hub" / repo / name / file
    fixed = re.fullmatch("[0-9a-f]{40}", revision) is not None
    return Place(f"{endpoint()}/{repo}/resolve/{name}/{file}", path, None, fixed, _token())


def hub_parts(address: str) -> tuple[str, str, str]:
    """Repository, revision and file of `hf:owner/repo[@revision][/file]`; DownloadError if it is none."""
    match = HUB.fullmatch(address)
    revision = unquote(match["revision"] or "main") if match else ""
    if match is None or not re.fullmatch(rf"{PART}(/{PART})*", revision, re.ASCII):
        raise DownloadError(
            f"{address[:200]!r}: the Hub's files are hf:owner/repo[@revision][/file], names of A-Z a-z 0-9 . _ -"
        )
    return match["repo"], revision, match["file"] or DEFAULT_FILE


def endpoint() -> str:
    """The Hub, or the server in HF_ENDPOINT; DownloadError if a token should not go there."""
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    check_url(url)
    return url


def fetch(address: str, folder: Path, *, again: bool = False, limit: int = LIMIT) -> Path:
    """The path of a file below `folder`, fetched unless it is there.

    What has a digest or a commit for an address, or was put there by hand, is used as it is. For the rest the server is asked
    whether it has changed; a server out of reach, or MSS_OFFLINE=1, is no obstacle to a file that is there.

    Args:
        address: see `locate`.
        folder: of the cache.
        again: fetch it, though it is there.
        limit: bytes, above which nothing is kept.

    Raises:
        DownloadError: refused, out of reach, or not what the digest says.
    """
    place = locate(address, folder)
    path, known = place.path, facts_of(place.path)
    there = path.is_file() and not again
    if there and place.sha256 and known is None and not sha256_of(path).startswith(place.sha256):
        raise DownloadError(
            f"{path}: not the file whose SHA-256 begins with {place.sha256}: remove it, or put the right one there"
        )
    if there and (place.sha256 or place.fixed or known is None or offline()):
        return path
    if offline():
        raise DownloadError(f"MSS_OFFLINE is set and {address} is not on this machine: {_by_hand(place)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            latest = facts_of(path)
            if path.is_file() and latest != known:  # another process was faster
                return path
            known = latest if there else None
            Transfer(place.url, path, sha256=place.sha256, token=place.token, known=known, limit=limit).run()
    except UnreachableError as error:
        if not there:
            raise DownloadError(f"{error}: {_by_hand(place)}") from error
    except OSError as error:
        if not there:
            raise DownloadError(
                f"{path.parent}: cannot be written ({error.strerror}): set MSS_HOME to a folder that can"
            ) from error
    return path


def is_damaged(path: Path) -> bool:
    """Whether a fetched file is no longer what was fetched."""
    facts = facts_of(path)
    return facts is not None and facts.get("sha256") != sha256_of(path)


def _web(address: str, folder: Path) -> Place:
    url, _, fragment = address.partition("#")
    given = re.fullmatch("sha256=([0-9a-fA-F]{8,64})", fragment)
    if fragment and not given:
        raise DownloadError(f"{shown(url)}: after # goes sha256= and 8 to 64 hexadecimal digits")
    check_url(url)
    url = quoted(url)
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    _refuse_pickles(shown(url), name)
    named = re.search(r"(?:^|[._-])([0-9a-f]{64})(?:\.|$)", name)
    sha256 = given[1].lower() if given else named[1] if named else None
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:].lstrip(".") or "file"
    host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(url).netloc)
    return Place(url, folder / host / hashlib.sha256(address.encode()).hexdigest()[:12] / safe, sha256)


def _refuse_pickles(address: str, file: str) -> None:
    if file.lower().endswith(PICKLES):
        raise DownloadError(f"{address}: pickles can run code and are not fetched: ask for the .safetensors")


def _token() -> str | None:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):  # else http.client would quote it in its complaint
        raise DownloadError("HF_TOKEN has characters that no token has: set it anew")
    return token or None


def _by_hand(place: Place) -> str:
    return f"download {shown(place.url)} elsewhere and put it at {place.path}"


def offline() -> bool:
    """Whether MSS_OFFLINE says that no server is to be asked."""
    return os.environ.get("MSS_OFFLINE", "").lower() not in ("", "0", "false", "no")


def without_secrets(error: BaseException, token: str | None) -> str:
    """What went wrong and why, on one line, without the token and what signs addresses."""
    causes: list[str] = []
    while error is not None and len(causes) < 3:
        causes.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__
    told = ": ".join(dict.fromkeys(causes))
    told = told.replace(token, "***") if token else told  # before it is cut, or a part of it would be left
    told = re.sub(r"(?i)(bearer\s+)\S+", r"\1***", re.sub(r"\?[^\s'\"]+", "?...", told))
    return "".join(c if c.isprintable() else "?" for c in told)[:400]
