"""One of the processes that learn together: `python -m trainer.refiners.member`, started by `together`.

Its stdin says when something lies in the file that it was given, its stdout (which is not Python's any more)
what came of it; it ends with its stdin, whatever it is doing, and so with the trainer, however that ended.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.refiners.episodic import Learner
    from trainer.refiners.placement import Placement

BEAT_S = 1.0
Say = Callable[[dict[str, Any]], None]


class Ear(threading.Thread):
    """Reads stdin beside the work, and ends the process with it."""

    def __init__(self, meeting: Path) -> None:
        super().__init__(name="ear", daemon=True)
        self.sizes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._meeting = meeting

    def run(self) -> None:
        for line in sys.stdin:
            self.sizes.put(int(line))
        # The trainer may have been killed and not have tidied up.
        shutil.rmtree(self._meeting.parent, ignore_errors=True)
        os._exit(0)


def main() -> None:
    """One argument: what `together.Group` tells, as JSON."""
    given = json.loads(sys.argv[1])
    # The trainer finishes what it is at before it stops; the same signals must not end that here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not be taken for an answer
    ear = Ear(Path(given["meeting"]))
    ear.start()

    def say(told: dict[str, Any]) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    def asked() -> bytes:
        size = ear.sizes.get()
        with mmap.mmap(given["asked"], size, access=mmap.ACCESS_READ) as seen:
            return seen[:]

    try:
        opening = asked()
        say({})
        place = _join(given, say)
        say({})
        learner = _opened(opening, place)
        _answer(given, say, {}, {})
        while True:
            _learn(learner, given, say, asked())
    except Exception as error:
        traceback.print_exc()
        said = str(error) if type(error).__module__.startswith("contracts.") else ""
        say({"failed": said or f"{type(error).__name__}: {error}"})
        # The trainer ends us all; ended before it has read that, it would know no reason.
        threading.Event().wait()


def _join(given: dict[str, Any], say: Say) -> Placement:
    """Meets the others. The first thing that they do together shows whether they can."""
    part, parts = given["part"], given["parts"]
    # As torchrun and accelerate's own launcher tell it; nothing that they open is seen off this machine.
    known = {"RANK": part, "LOCAL_RANK": part, "WORLD_SIZE": parts, "LOCAL_WORLD_SIZE": parts}
    os.environ.update({name: str(value) for name, value in known.items()})
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from accelerate import Accelerator
    from accelerate.utils import check_cuda_p2p_ib_support
    from torch import distributed

    from trainer.refiners.placement import Placement

    on_cpu = given["device"] == "cpu"
    if not on_cpu:
        torch.cuda.set_device(part)
        if not check_cuda_p2p_ib_support():
            os.environ.update({"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"})
    # They meet in a file: torch's own meeting place listens on every interface.
    meeting, backend = f"file://{given['meeting']}", "gloo" if on_cpu else "nccl"
    distributed.init_process_group(backend, init_method=meeting, rank=part, world_size=parts)

    class Member(Placement):
        """Says from time to time that it is still there."""

        _beat_s = 0.0

        def step(
            self,
            loss: torch.Tensor,
            optimiser: torch.optim.Optimizer,
            *clipped: Iterable[torch.nn.Parameter],
        ) -> None:
            super().step(loss, optimiser, *clipped)
            if time.monotonic() > self._beat_s + BEAT_S:
                self._beat_s = time.monotonic()
                say({})

    accelerator = Accelerator(cpu=on_cpu)
    place = Member(str(accelerator.device), part, parts, accelerator)
    place.mean(0.0)
    return place


def _opened(opening: bytes, place: Placement) -> Learner[Any]:
    """The learner of the refiner that the trainer has opened."""
    from trainer.refiners.parcels import opened, taken_out

    told, arrays = opened(opening)
    factory = getattr(importlib.import_module(told["module"]), told["refiner"])
    refiner = factory(
        package=Path(told["package"]),
        demonstrations=taken_out(told["demonstrations"], "demonstrations", arrays),
        options=told["options"],
        seed=told["seed"],
        place=place,
    )
    learner: Learner[Any] = refiner.learner
    return learner


def _learn(learner: Learner[Any], given: dict[str, Any], say: Say, asked: bytes) -> None:
    """One update, from where the trainer says that it begins."""
    from trainer.refiners.parcels import named, opened, taken_out

    told, arrays = opened(asked)
    learner.restore(named("state", arrays), "what the trainer told")
    learner.own[told["kept"] :] = taken_out(told["own"], "own", arrays)
    fresh = taken_out(told["fresh"], "fresh", arrays)
    update = learner.learn(fresh, told["seed"], told["iteration"])
    learned = {f"state/{name}": array for name, array in learner.state().items()}
    learned |= {f"update/{name}": array for name, array in update.tensors.items()}
    found = {"metrics": update.metrics, "samples": update.samples, "own": len(learner.own)}
    _answer(given, say, found, learned)


def _answer(given: dict[str, Any], say: Say, told: dict[str, Any], arrays: dict[str, Any]) -> None:
    """All learned the same: the arrays are the first one's."""
    from trainer.refiners.parcels import parcel

    size = 0
    if given["part"] == 0:
        data = parcel(None, arrays)
        size = len(data)
        with os.fdopen(os.dup(given["answered"]), "wb") as file:
            file.seek(0)
            file.truncate()
            file.write(data)
    say({**told, "bytes": size})


if __name__ == "__main__":
    main()
