"""Files that appear under their names only when they are complete, and where things are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "config_folder", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, or on any fault leaves nothing, and what was there before as it was."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets no one else read it
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cache_folder() -> Path:
    """Where what was downloaded, converted or decoded is kept: $MSS_HOME, else the user's cache."""
    home = os.environ.get("MSS_HOME")
    return Path(home) if home else platformdirs.user_cache_path("mss")


def config_folder() -> Path:
    """Where the YAML files are: in an installed wheel, or in the source tree."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def _umask() -> int:
    """The file mode bits that the user does not want; can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
