"""A collection's blocks as tasks of Ray. A task whose worker or machine is lost is run again by Ray, from the
block's seeds; what is lost for good is told as a death."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import msgspec

from trainer import ray_cluster
from trainer.collection import Runner
from trainer.collection_block import Ended, Job, run_block

LOST_MACHINES = 3
"""Under one task, before that counts as a death of its block."""


def runner(ray: Any, processors: int, gpus: float) -> Runner:
    """Connected already. Each block takes so many processors and so much of a GPU, wherever there are."""
    task = ray.remote(num_cpus=processors, num_gpus=gpus, max_retries=LOST_MACHINES)(run_block)

    def run(jobs: list[bytes]) -> Generator[bytes, None, None]:
        waiting = {task.remote(job): job for job in jobs}
        try:
            while waiting:
                for ended in ray.wait(list(waiting))[0]:
                    job = waiting.pop(ended)
                    try:
                        said: bytes = ray.get(ended)
                    except ray.exceptions.RayError as error:
                        said = _lost(job, error)
                    yield said
        finally:
            for left in waiting:
                ray.cancel(left, force=True)

    return run


def warn_if_too_large(ray: Any, processors: int, gpus: float) -> None:
    """No machine of the cluster has room for one robot: Ray waits until one comes."""
    if ray_cluster.room(ray.nodes(), processors, gpus):
        return
    what = f"{processors} processors and {gpus:g} GPUs"
    sys.stderr.write(f"robot-trainer: no machine of the cluster has {what}: waiting for one\n")


def _lost(job: bytes, error: Exception) -> bytes:
    cause = getattr(error, "cause", None) or error
    why = ray_cluster.in_a_line(cause)
    return msgspec.json.encode(Ended(msgspec.json.decode(job, type=Job).first, "died", why))
