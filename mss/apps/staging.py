"""Where files grow until they are complete, and how they get their names: all of them, or none."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mss.audio import AudioError

__all__ = ["publish", "remove_stale", "staging"]

STAGING = ".mss"  # begins the names of the folders in which files grow


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A hidden folder below the output folder, on the same disk as the outputs; goes away in any case but a kill -9."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{STAGING}-{platform.node()}-{os.getpid()}-", dir=root))
    except OSError as error:
        raise AudioError(
            f"{root}: cannot be written to ({error.strerror}); choose another folder with --out."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(root: Path) -> None:
    """Removes what killed processes of this machine left in the output folder."""
    if os.name != "posix":  # elsewhere asking whether a process lives may end it
        return
    for folder in root.glob(f"{STAGING}-{glob.escape(platform.node())}-*"):
        process = folder.name.split("-")[-2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def publish(sources: Sequence[Path], paths: Sequence[Path]) -> None:
    """Moves complete files to their names; if one cannot be moved, none is, and what had these names before has them again."""
    begun: list[tuple[Path, Path, Path]] = []
    try:
        for source, path in zip(sources, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            earlier = source.with_name(f"{source.name}.earlier")
            begun.append((source, earlier, path))
            if path.is_file():
                _keep(path, earlier)
            os.replace(source, path)
    except BaseException as error:
        for source, earlier, done in begun:
            with contextlib.suppress(OSError):
                if earlier.exists():
                    os.replace(earlier, done)
                elif not source.exists():
                    done.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = f"{error.strerror or error}"
            raise AudioError(f"{path}: cannot be written ({reason}); choose another --out or --filename.") from error
        raise


def _keep(path: Path, earlier: Path) -> None:
    """Gives a file one more name, or another where the file system knows but one."""
    try:
        os.link(path, earlier)
    except OSError:
        os.replace(path, earlier)
