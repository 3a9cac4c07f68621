"""A fine-tuning from its settings to a checked result: everything is opened and tried before the first step.

Owns the order of things and the folder it writes. The loop itself is `trainer.rewards.tuning.loop`.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError, MissingDependency, PackageError
from contracts.files import atomic, outputs
from trainer.rewards.tuning.journal import OPTIONS, RUN, Journal, versions, write_options
from trainer.rewards.tuning.loop import BEST, STATE, Loop, Plan
from trainer.rewards.tuning.memory import check_tuning_fits, estimate_tuning
from trainer.rewards.tuning.network import (
    held_as,
    open_layout,
    open_trainable,
    recover_folder,
)
from trainer.rewards.tuning.order import steps_of
from trainer.rewards.tuning.rows import DataSet, read_data
from trainer.rewards.tuning.sequences import Writer
from trainer.rewards.tuning.settings import Tuning
from trainer.rewards.tuning.subjects import Subject
from trainer.rewards.vlm import factory
from trainer.rewards.vlm.loading import checkpoint_identity, find

_IRRELEVANT = ("output", "data", "loaders", "tensorboard")
"""Settings that change nothing of the result."""

Say = Callable[[int, float, dict[str, float]], None]


def tune(settings: Tuning, say: Say = lambda step, done, figures: None) -> dict[str, float]:
    """Train, or go on where the output folder stands; the figures of the checkpoint that was kept (none on
    processes but the first).

    Raises `EntracteError` and its kin before the first step for data, a model, memory or a folder that
    won't do.
    """
    outputs.require_room(Path(settings.output))
    data = read_data(Path(settings.data), settings.vlm.signals, settings.progress_label)
    base = find(settings.vlm.model)
    layout, config = open_layout(base)
    accelerator = _accelerator(settings)
    main = bool(accelerator.is_main_process)
    subjects = [
        # The very questions that the reward model will ask, frame contract and prompt texts included.
        Subject(rows.signal, factory.question_of(rows.signal, settings.vlm, layout.rule.multiple))
        for rows in data.signals
    ]
    writer = Writer(layout, base, config)
    plan = _plan(settings, data, subjects, writer, accelerator.num_processes)
    output = Path(settings.output)
    journal = Journal(output, settings.tensorboard, main)
    _check_memory(settings, base, plan, accelerator)
    what = _identity(settings, data, base, plan)
    done = _opened(output, what)
    if done is not None:
        return done if main else {}
    model = open_trainable(
        settings, base, _device(accelerator), _sharded(accelerator), plan.longest
    )
    loop = Loop(plan, model, accelerator, output, what, base)
    loop.rehearse()
    provenance = _provenance(settings, data, what, plan, loop)
    if main:
        recover_folder(output / BEST)
        atomic.write_json(output / RUN, provenance)
    accelerator.wait_for_everyone()
    figures = loop.run(journal, say if main else lambda step, done, found: None)
    if main:
        questions = {subject.signal: subject.question for subject in subjects}
        best = (output / BEST).resolve()
        write_options(output / OPTIONS, settings, questions, base.resolve(), best)
        # Last: a run with figures is whole.
        atomic.write_json(output / RUN, {**provenance, "figures": figures})
        (output / STATE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return figures if main else {}


def _accelerator(settings: Tuning) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependency(
            "fine-tuning needs accelerate", remedy="pip install 'entracte[vlm]'"
        ) from error
    import torch

    if settings.vlm.threads:
        torch.set_num_threads(settings.vlm.threads)
    return Accelerator(
        mixed_precision="bf16" if settings.precision == "bfloat16" else "no",
        cpu=settings.vlm.device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def _sharded(accelerator: Any) -> bool:
    return str(accelerator.distributed_type).endswith("FSDP")


def _device(accelerator: Any) -> str:
    # FSDP shards on the way to the GPU: the whole model need not fit there.
    return "cpu" if _sharded(accelerator) else str(accelerator.device)


def _plan(
    settings: Tuning, data: DataSet, subjects: list[Subject], writer: Writer, processes: int
) -> Plan:
    """The first rows of each signal are read and laid out: data that can't be used shows here."""
    plan = Plan.of(settings, data, subjects, writer, processes)
    sizes = [len(rows.train) for rows in data.signals]
    rows_a_step = settings.batch * settings.accumulate * processes
    plan.steps = steps_of(sizes, settings.epochs, settings.steps, rows_a_step)
    plan.measure()
    return plan


def _check_memory(settings: Tuning, base: Path, plan: Plan, accelerator: Any) -> None:
    shards = accelerator.num_processes if _sharded(accelerator) else 1
    held = held_as(settings, _sharded(accelerator))
    tokens = plan.longest * settings.batch
    needed = estimate_tuning(base, settings, held, tokens, plan.reads * settings.batch, shards)
    if accelerator.device.type == "cuda":
        import torch

        free, where = torch.cuda.mem_get_info(accelerator.device)[0], "the GPU's memory"
    else:
        import psutil

        free, where = psutil.virtual_memory().available, "this machine's memory"
        free //= accelerator.num_processes
    check_tuning_fits(needed, int(free), where, settings)


def _identity(settings: Tuning, data: DataSet, base: Path, plan: Plan) -> str:
    """Changes with whatever changes the result: another identity doesn't go on in the same folder."""
    told = msgspec.to_builtins(settings)
    for name in _IRRELEVANT:
        del told[name]
    for name in ("device", "threads"):
        del told["vlm"][name]
    prompts = [subject.question.text.digest for subject in plan.subjects]
    del told["vlm"]["model"], told["vlm"]["prompts"]
    parts = [
        msgspec.json.encode(told, order="deterministic").decode(),
        data.digest,
        checkpoint_identity(base, {}, ""),
        *prompts,
        str(plan.processes),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _opened(output: Path, what: str) -> dict[str, float] | None:
    """The figures of a run that is done already, None where there is work to do."""
    path = output / RUN
    if not path.exists():
        if output.exists() and any(output.iterdir()):
            raise EntracteError(f"{output} is not empty", remedy="choose an empty folder")
        return None
    told = atomic.read_json(path)
    if told.get("identity") != what:
        raise PackageError(
            f"{output} holds a fine-tuning with other settings, data, checkpoint or processes",
            expected=what[:12],
            found=str(told.get("identity"))[:12],
            remedy="choose another output folder, or delete this one",
        )
    figures: dict[str, float] | None = told.get("figures")
    return figures


def _provenance(
    settings: Tuning, data: DataSet, what: str, plan: Plan, loop: Loop
) -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "settings": msgspec.to_builtins(settings),
        "identity": what,
        "seed": settings.seed,
        "steps": plan.steps,
        "processes": plan.processes,
        "rows": {r.signal: {"train": len(r.train), "val": len(r.val)} for r in data.signals},
        "validated_on": {
            s.signal: len(rows) for s, rows in zip(plan.subjects, plan.val, strict=True)
        },
        "data": {"tables_sha256": data.digest, "card_sha256": data.card},
        "prompts": {s.signal: s.question.text.digest for s in plan.subjects},
        "trained_numbers": loop.learnt,
        "versions": versions(),
    }
