"""Weights that others have published and that are not in a package: where they are, and what is to be known of them.

A file is taken from its place in the cache, `weights/<model>/<file>`, where it can be put by hand, else from its address.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mss.adapters import StereoPairs
from mss.download import DownloadError, Transfer
from mss.importers.demucs import SOURCES, hdemucs_file
from mss.importers.openunmix import from_weights
from mss.importers.spleeter import STEMS, spleeter_file
from mss.importers.weights import ImportedWeightsError, read_state
from mss.separator import Separator
from mss.wrappers import Chunked

__all__ = ["PUBLISHED", "Published", "Weights"]


@dataclass(frozen=True)
class Weights:
    """One file: its name, its address, and what its SHA-256 begins with ("": not published).

    With `made`, what is at the address is not the file itself: how it is made of it.
    """

    file: str
    url: str
    sha256: str = ""
    made: str = ""

    def obtain(self, folder: Path) -> Path:
        """Its path in `folder`, after the download if it was not there.

        Raises:
            ImportedWeightsError: it is not there and cannot be had; what to do by hand.
        """
        path = folder / self.file
        if path.is_file():
            return path
        if self.made:
            digest = f", SHA-256 {self.sha256}" if self.sha256 else ""
            raise ImportedWeightsError(f"{path} is not there: {self.made} ({self.url}{digest})")
        by_hand = f"download {self.url} elsewhere and put it at {path}"
        if os.environ.get("MSS_OFFLINE", "").lower() not in ("", "0", "false", "no"):
            raise ImportedWeightsError(f"MSS_OFFLINE is set and {self.file} is not on this machine: {by_hand}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{self.file}.lock"):
                if not path.is_file():
                    Transfer(self.url, path, sha256=self.sha256 or None).run()
        except (DownloadError, OSError) as error:
            raise ImportedWeightsError(f"{error}: {by_hand}") from error
        return path


@dataclass(frozen=True)
class Published:
    """A model, and the function that makes it of the paths of its files."""

    targets: tuple[str, ...]
    licence: str
    source: str
    training_data: str
    files: tuple[Weights, ...]
    assemble: Callable[[Sequence[Path]], Separator]
    warning: str = ""

    def make(self, folder: Path) -> Separator:
        """The separator, of its files in `folder`; raises ImportedWeightsError."""
        return self.assemble([weights.obtain(folder) for weights in self.files])


def _open_unmix(
    record: int,
    digits: Mapping[str, str],
    *,
    data: str,
    what: str,
    mark: str = "-",
    licence: str = "MIT",
    **options: int,
) -> Published:
    """A model in a record of Zenodo, in whose names of files the digests are."""
    names = [f"{target}{mark}{digest}.pth" for target, digest in digits.items()]
    urls = [f"https://zenodo.org/records/{record}/files/{name}" for name in names]
    files = tuple(Weights(*fields) for fields in zip(names, urls, digits.values(), strict=True))

    def assemble(paths: Sequence[Path]) -> Separator:
        states = [read_state(path, sha256=weights.sha256) for path, weights in zip(paths, files, strict=True)]
        return from_weights(dict(zip(digits, states, strict=True)), **options)

    source = f"{what} (Stöter et al. 2019), doi:10.5281/zenodo.{record}"
    warning = "for non-commercial use only" if "NC" in licence else ""
    return Published(tuple(digits), licence, source, data, files, assemble, warning)


def _hybrid_demucs(file: str, *, data: str, warning: str = "") -> Published:
    def assemble(paths: Sequence[Path]) -> Separator:
        return StereoPairs(Chunked(hdemucs_file(*paths), segment=40.0)).eval()

    weights = Weights(file, f"https://download.pytorch.org/torchaudio/models/{file}")
    return Published(SOURCES, "MIT", "Hybrid Demucs (Défossez 2021), torchaudio", data, (weights,), assemble, warning)


def _spleeter(stems: int, sha256: str) -> Published:
    weights = Weights(
        f"{stems}stems.npz",
        f"https://github.com/deezer/spleeter/releases/download/v1.4.0/{stems}stems.tar.gz",
        sha256,
        "it is made by TensorFlow, on any machine, with the lines in mss.importers.spleeter",
    )
    source = f"Spleeter {stems}-stem U-Net (Hennequin et al. 2020)"
    data = "songs of Deezer's, not published"
    return Published(
        STEMS[stems], "MIT", source, data, (weights,), lambda paths: spleeter_file(*paths, stems=stems)
    )  # fmt: skip


PUBLISHED = {
    "umx": _open_unmix(
        3370486,
        {"vocals": "c8df74a5", "drums": "5a48008b", "bass": "646024d3", "other": "f8e132cc"},
        data="MUSDB18, training set",
        what="Open-Unmix",
    ),
    "umxhq": _open_unmix(
        3370489,
        {"vocals": "b62c91ce", "drums": "9619578f", "bass": "8d85a5bd", "other": "b52fbbf7"},
        data="MUSDB18-HQ, training set",
        what="Open-Unmix HQ",
    ),
    "umxl": _open_unmix(
        5069601,
        {"vocals": "bccbd9aa", "drums": "69e0ebd4", "bass": "2ca1ce51", "other": "c8c5b3e6"},
        data="some 400 hours of songs, not published",
        what="Open-Unmix Extra",
        licence="CC BY-NC-SA 4.0",
    ),
    "umxse": _open_unmix(
        3786908,
        {"speech": "f5e0d9f9", "noise": "04a6fc2d"},
        data="Voicebank and DEMAND, 28 speakers",
        what="Open-Unmix for speech",
        mark="_",
        channels=1,
        sample_rate=16000,
        n_fft=1024,
        hop=512,
    ),
    "hdemucs_high_musdb": _hybrid_demucs("hdemucs_high_musdbhq_only.pt", data="MUSDB18-HQ, training set"),
    "hdemucs_high_musdb_plus": _hybrid_demucs(
        "hdemucs_high_trained.pt",
        data="MUSDB18-HQ, training and test set, and 150 songs, not published",
        warning="trained on the test set of MUSDB18: scores on it mean nothing",
    ),
    "spleeter-4stems": _spleeter(4, "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8"),
    "spleeter-5stems": _spleeter(5, "25a1e87eb5f75cc72a4d2d5467a0a50ac75f05611f877c278793742513cc7218"),
}
