"""Pages that need nothing but themselves: templates, styles and scripts are the files here, put together by `document`."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["as_json", "asset", "data_uri", "document", "fill"]

FOLDER = Path(__file__).parent
KINDS = {"mp3": "audio/mpeg", "flac": "audio/flac", "wav": "audio/wav", "ogg": "audio/ogg", "png": "image/png"}


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def fill(template: str, /, **values: str) -> str:
    """A template of this folder with its $names filled in; values are HTML already."""
    return string.Template(asset(template)).substitute(values)


def as_json(value: Any) -> str:
    """JSON that may stand inside of a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", "")


def data_uri(data: bytes, suffix: str) -> str:
    """Bytes as a data URI; the suffix (mp3, png ...) says what they are."""
    return f"data:{KINDS[suffix]};base64,{base64.b64encode(data).decode('ascii')}"


def document(
    title: str,
    body: str,
    *,
    styles: Sequence[str] = ("base.css",),
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    media: str = "data: blob:",
    connect: str = "'none'",
) -> str:
    """An HTML page in which nothing runs but the scripts named here, and which loads nothing.

    Args:
        title: text.
        body: HTML.
        styles, scripts: files of this folder, in this order; a script sees what those before it declare.
        data: id -> value; `JSON.parse(document.getElementById(id).textContent)` gives it back.
        media: where sound may come from, as in a Content-Security-Policy; "'self'" for files beside the page.
        connect: where scripts may send to.
    """
    code = "\n".join(asset(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        f"media-src {media}; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    blocks = "\n".join(
        f'<script type="application/json" id="{html.escape(name)}">{as_json(value)}</script>'
        for name, value in (data or {}).items()
    )
    return fill(
        "document.html",
        policy=policy,
        title=html.escape(title),
        style="\n".join(asset(name) for name in styles),
        body=body,
        data=blocks,
        script=f"<script>{code}</script>" if code else "",
    )
