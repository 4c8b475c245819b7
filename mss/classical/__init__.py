"""Classical methods: each file one paper, each an estimator X (b, c, f, k) complex -> V (b, n, c, f, k) real >= 0."""

from mss.classical._nmf import factorise
from mss.classical.adress import adress, adress_positions, adress_resynthesis
from mss.classical.auxiva import auxiva
from mss.classical.common_fate import common_fate, common_fate_inverse, common_fate_transform
from mss.classical.drum_nmf import drum_nmf, drum_templates
from mss.classical.duet import duet, duet_positions
from mss.classical.fastmnmf import fastmnmf
from mss.classical.ft2d import ft2d
from mss.classical.harmonic_nmf import harmonic_nmf, harmonic_templates
from mss.classical.hpss import hpss
from mss.classical.ica import ICA
from mss.classical.ilrma import ilrma
from mss.classical.kam import kam, kernel_backfitting
from mss.classical.lgm import lgm
from mss.classical.mnmf import mnmf
from mss.classical.nmf import DictionaryNMF, nmf
from mss.classical.nmfd import deconvolve, nmfd
from mss.classical.panning import azimuth_names, find_azimuths, panning, panning_angles, panning_histogram
from mss.classical.phase_hpss import phase_hpss
from mss.classical.pitch_informed import pitch_informed
from mss.classical.projet import projet, projet_positions
from mss.classical.repet import repet, repet_adaptive
from mss.classical.repet_sim import repet_sim
from mss.classical.rhythm_section import rhythm_section
from mss.classical.rpca import principal_component_pursuit, rpca
from mss.classical.score_informed import Note, instruments, read_score, score_informed
from mss.classical.sinusoidal import (
    Peaks,
    Tracks,
    sinusoidal_split,
    sinusoidal_synthesis,
    sinusoidal_tracks,
    spectral_peaks,
    track_peaks,
)
from mss.classical.source_filter import melody, source_filter

__all__ = [
    "ICA",
    "DictionaryNMF",
    "Note",
    "Peaks",
    "Tracks",
    "adress",
    "adress_positions",
    "adress_resynthesis",
    "auxiva",
    "azimuth_names",
    "common_fate",
    "common_fate_inverse",
    "common_fate_transform",
    "deconvolve",
    "drum_nmf",
    "drum_templates",
    "duet",
    "duet_positions",
    "factorise",
    "fastmnmf",
    "find_azimuths",
    "ft2d",
    "harmonic_nmf",
    "harmonic_templates",
    "hpss",
    "ilrma",
    "instruments",
    "kam",
    "kernel_backfitting",
    "lgm",
    "melody",
    "mnmf",
    "nmf",
    "nmfd",
    "panning",
    "panning_angles",
    "panning_histogram",
    "phase_hpss",
    "pitch_informed",
    "principal_component_pursuit",
    "projet",
    "projet_positions",
    "read_score",
    "repet",
    "repet_adaptive",
    "repet_sim",
    "rhythm_section",
    "rpca",
    "score_informed",
    "sinusoidal_split",
    "sinusoidal_synthesis",
    "sinusoidal_tracks",
    "source_filter",
    "spectral_peaks",
    "track_peaks",
]
