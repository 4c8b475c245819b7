"""Networks: each file one architecture, readable from end to end."""

from mss.nets.blocks import UpConv2d
from mss.nets.unet import UNet, UNetMasks

__all__ = ["UNet", "UNetMasks", "UpConv2d"]
