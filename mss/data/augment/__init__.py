"""Augmentation of stems, on their device, before they are summed to a mixture."""

from mss.data.augment.base import Augment, Augmentation, Only
from mss.data.augment.dynamics import Clip, Compression, Distortion
from mss.data.augment.levels import ChannelSwap, Drop, Gain, Leak, Level, Pan, Polarity, Remix, Shift, Width
from mss.data.augment.pitch import PitchTempo, Speed
from mss.data.augment.sound import Codec, Equalizer, LowPass, Reverb

__all__ = [
    "Augment",
    "Augmentation",
    "ChannelSwap",
    "Clip",
    "Codec",
    "Compression",
    "Distortion",
    "Drop",
    "Equalizer",
    "Gain",
    "Leak",
    "Level",
    "LowPass",
    "Only",
    "Pan",
    "PitchTempo",
    "Polarity",
    "Remix",
    "Reverb",
    "Shift",
    "Speed",
    "Width",
]
