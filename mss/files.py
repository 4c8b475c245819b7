"""Files that appear under their names only when they are complete, and where things are kept."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "config_folder", "remove_unfinished", "write_whole"]


PART = ".part"  # what a file ends in until it is complete


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Writes a file, or on any fault leaves nothing, and what was there before as it was."""
    temporary = path.parent / f"{_unfinished(path)}{secrets.token_hex(8)}{PART}"
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # the last: Windows
    handle = os.open(temporary, new, 0o666)  # less the umask, which mkstemp does not ask
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)  # else after a power failure the name may be there and the content not
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_unfinished(path: Path) -> None:
    """Removes what was left of `path` when a process was killed while it wrote; no other may be writing it now."""
    prefix = _unfinished(path)
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        if file.name.startswith(prefix) and file.name.endswith(PART):
            file.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what was downloaded, converted or decoded is kept: $MSS_HOME, else the user's cache."""
    home = os.environ.get("MSS_HOME")
    return Path(home) if home else platformdirs.user_cache_path("mss")


def config_folder() -> Path:
    """Where the YAML files are: in an installed wheel, or in the source tree."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def _unfinished(path: Path) -> str:
    """What the name begins with under which it is written."""
    return f".{path.name[:40]}."
