"""Training: what a step computes, losses, the LightningModule, and what happens around them."""

from mss.training.losses import LOSSES, loss_by_name
from mss.training.step import Step

__all__ = ["LOSSES", "Step", "loss_by_name"]
