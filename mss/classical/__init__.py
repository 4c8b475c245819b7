"""Classical methods: each file one paper, each an estimator X (b, c, f, k) complex -> V (b, n, c, f, k) real >= 0."""

from mss.classical.adress import adress, adress_positions, adress_resynthesis
from mss.classical.auxiva import auxiva
from mss.classical.duet import duet, duet_positions
from mss.classical.fastmnmf import fastmnmf
from mss.classical.hpss import hpss
from mss.classical.ica import ICA
from mss.classical.ilrma import ilrma
from mss.classical.lgm import lgm
from mss.classical.mnmf import mnmf
from mss.classical.panning import azimuth_names, find_azimuths, panning, panning_angles, panning_histogram
from mss.classical.projet import projet, projet_positions
from mss.classical.repet_sim import repet_sim

__all__ = [
    "ICA",
    "adress",
    "adress_positions",
    "adress_resynthesis",
    "auxiva",
    "azimuth_names",
    "duet",
    "duet_positions",
    "fastmnmf",
    "find_azimuths",
    "hpss",
    "ilrma",
    "lgm",
    "mnmf",
    "panning",
    "panning_angles",
    "panning_histogram",
    "projet",
    "projet_positions",
    "repet_sim",
]
