"""Networks: each file one architecture, readable from end to end."""

from mss.nets.blocks import Magnitudes
from mss.nets.blstm import BLSTM, CrossBLSTM
from mss.nets.deep_clustering import Chimera, Clusters, DeepClustering
from mss.nets.fcn import FCN, least_squares
from mss.nets.guided import GuidedTCN
from mss.nets.low_end import LowEnd
from mss.nets.spatial import SpatialSeparator
from mss.nets.unet import UNet, UNetMasks, UpConv2d
from mss.nets.waveform import ConvTasNet, HDemucs

__all__ = [
    "BLSTM",
    "FCN",
    "Chimera",
    "Clusters",
    "ConvTasNet",
    "CrossBLSTM",
    "DeepClustering",
    "GuidedTCN",
    "HDemucs",
    "LowEnd",
    "Magnitudes",
    "SpatialSeparator",
    "UNet",
    "UNetMasks",
    "UpConv2d",
    "least_squares",
]
