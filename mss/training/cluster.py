"""Who started the processes of a run, and so tells each of them its rank: torchrun, srun, or Lightning itself."""

from __future__ import annotations

import os

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

__all__ = ["started_by"]


def started_by() -> ClusterEnvironment | None:
    """What Lightning is to ask for ranks; None: it finds out by itself.

    Unlike Lightning this takes a process for one of several of Slurm's only if srun started it, whatever the batch script
    around it asked for, and never leaves it to Lightning to put a job back into the queue: its signal handler saves in
    the midst of a step, and the file goes before the one that `resume` names (`scripts/slurm/train.sbatch` does it).

    Raises:
        ValueError: variables of Slurm that contradict each other.
    """
    if TorchElasticEnvironment.detect():  # also inside of srun
        return TorchElasticEnvironment()
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    return LightningEnvironment() if "SLURM_JOB_ID" in os.environ else None
