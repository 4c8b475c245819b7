"""Musical source separation: a finished recording in, its stems out.

>>> import mss
>>> separator = mss.load("four-stems")
>>> with torch.inference_mode():
...     vocals, drums, bass, other = separator(mixture)[0]  # mixture (1, channel, sample)

Names are imported when first used, so that `python -m mss.separate --help` need not wait for torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mss-separation")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "CQT": "mss.transforms",
    "STFT": "mss.transforms",
    "Separator": "mss.separator",
    "SpectralSeparator": "mss.separator",
    "Cascade": "mss.combined",
    "Corrected": "mss.combined",
    "Chunked": "mss.wrappers",
    "Ensemble": "mss.combined",
    "Shifted": "mss.wrappers",
    "Refined": "mss.combined",
    "EachChannel": "mss.adapters",
    "MidSide": "mss.adapters",
    "Resampled": "mss.adapters",
    "Select": "mss.adapters",
    "StereoPairs": "mss.adapters",
    "WithResidual": "mss.wrappers",
    "stream": "mss.wrappers",
    "build": "mss.spec",
    "load": "mss.zoo",
    "save": "mss.checkpoint",
}
_MODULES = (
    "adapters",
    "audio",
    "checkpoint",
    "classical",
    "combined",
    "data",
    "filters",
    "metrics",
    "nets",
    "oracle",
    "phase",
    "separator",
    "transforms",
    "wrappers",
    "zoo",
)

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"mss.{name}")
    else:
        raise AttributeError(f"module 'mss' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
