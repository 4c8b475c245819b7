"""Fetch the public 7-second edition of MUSDB18 (144 excerpts, about 140 MB; for research, see its licences).

    python scripts/fetch_musdb7.py data/musdb7

The download is that of the package `musdb` (pip install musdb). The folder appears when everything is in it.
"""

import argparse
import os
import sys
import tempfile
import types
import urllib.error
import zipfile
from pathlib import Path

from mss.data.musdb import metadata
from mss.data.tracks import TrackError, find_tracks


def fetch(root: Path, url: str) -> int:
    """Downloads and unpacks the archive at `url` into `root`, a new folder; returns the number of tracks.

    Raises:
        TrackError: there is something already, no connection, or an archive that is not MUSDB18's.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise TrackError(f"{root} is there already: give a new folder")
    # musdb reads tracks with stempeg, whose import wants an ffmpeg binary; its download needs neither
    sys.modules.setdefault("stempeg", types.ModuleType("stempeg"))
    import musdb

    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
            data = musdb.DB.__new__(musdb.DB)  # its constructor would read the tracks, too
            data.root, data.url = str(Path(folder) / "tracks"), url
            data.download(progress=sys.stderr.isatty())
            count = len(find_tracks(data.root))
            if root.exists():
                root.rmdir()
            os.replace(data.root, root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise TrackError(f"{url} cannot be reached ({getattr(error, 'reason', error)}): are you online?") from error
    except zipfile.BadZipFile as error:
        raise TrackError(f"what came from {url} is no whole archive ({error}): try again") from error
    except OSError as error:
        raise TrackError(f"{root} cannot be written ({error.strerror or error}): give another folder") from error
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to make")
    parser.add_argument("--url", help="of the archive (default: the one that musdb names)")
    options = parser.parse_args()
    try:
        count = fetch(options.root, options.url or metadata()["sample-url"])
    except TrackError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} tracks in {options.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
