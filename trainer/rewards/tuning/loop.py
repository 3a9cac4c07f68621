"""The loop of a fine-tuning: steps, validations, the best checkpoint, and where it stands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import EntracteError
from trainer.rewards.tuning.ahead import made_ahead
from trainer.rewards.tuning.journal import Journal
from trainer.rewards.tuning.memory import remedy
from trainer.rewards.tuning.network import parameter_groups, replace_folder, write_weights
from trainer.rewards.tuning.order import Order, chance_of, rate_at
from trainer.rewards.tuning.rows import DataSet, Row
from trainer.rewards.tuning.sequences import Batch, Laid, Writer, answer_loss
from trainer.rewards.tuning.settings import Tuning
from trainer.rewards.tuning.state import learnt_tensors, restore_state, save_state, told_in
from trainer.rewards.tuning.subjects import Subject
from trainer.rewards.tuning.validation import Verdict, lay_out, measure, pick

BEST, STATE = "best", "state.safetensors"
_SAMPLED = 32
"""Rows of each signal that are laid out before the training, to know how long the longest is."""


@dataclass
class Plan:
    """What is learnt and when: rows in their order, laid out; `val`: those of each subject. `longest` and
    `reads`: tokens of the longest row that was looked at, and of its answer; `widest` is that row."""

    settings: Tuning
    data: DataSet
    subjects: list[Subject]
    writer: Writer
    processes: int
    order: Order
    val: list[list[Row]]
    steps: int = 0
    longest: int = 0
    reads: int = 0
    widest: Laid | None = None

    @classmethod
    def of(
        cls,
        settings: Tuning,
        data: DataSet,
        subjects: list[Subject],
        writer: Writer,
        processes: int,
    ) -> Plan:
        order = Order([len(rows.train) for rows in data.signals], settings.seed)
        val = [pick(rows.val, settings.validation_rows, settings.seed) for rows in data.signals]
        return cls(settings, data, subjects, writer, processes, order, val)

    def lesson(self, signal: int, index: int) -> Laid:
        """A training row with its answer."""
        subject, row = self.subjects[signal], self.data.signals[signal].train[index]
        return self.writer.answered(subject.prompts(row)[0], subject.answer(row))

    def batch(self, step: int, part: int, process: int) -> Batch:
        """The rows of one forward pass of one process."""
        settings = self.settings
        passes = (step * settings.accumulate + part) * self.processes + process
        rows = self.order.rows(passes * settings.batch, settings.batch)
        return self.writer.collate([self.lesson(*row) for row in rows])

    def measure(self) -> None:
        """Lays out the first rows that will come, of every signal."""
        for row in self.order.rows(0, _SAMPLED * len(self.subjects)):
            laid = self.lesson(*row)
            if len(laid.ids) > self.longest:
                self.longest, self.widest = len(laid.ids), laid
            self.reads = max(self.reads, len(laid.reads))


class Loop:
    """One training on the processes that `accelerator` (accelerate's) has."""

    def __init__(
        self, plan: Plan, model: Any, accelerator: Any, output: Path, what: str, base: Path
    ) -> None:
        settings = plan.settings
        self._plan, self._settings, self._accelerator = plan, settings, accelerator
        self._output, self._what, self._base = output, what, base
        self._main = bool(accelerator.is_main_process)
        self.learnt = sum(t.numel() for t in model.parameters() if t.requires_grad)
        groups = parameter_groups(model, settings.weight_decay)
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)
        self._model, prepared = accelerator.prepare(model, optimiser)
        self._optimiser: Any = getattr(prepared, "optimizer", prepared)
        self._first: Verdict | None = None
        self._best: Verdict | None = None
        self._best_step = 0

    def rehearse(self) -> None:
        """Forward and backward of the longest row known, thrown away: what would fail at the first step
        fails here. Raises `EntracteError`."""
        assert self._plan.widest is not None
        batch = self._plan.writer.collate([self._plan.widest] * self._settings.batch)
        with self._memory():
            loss = answer_loss(self._model, batch.to(self._accelerator.device))
            self._accelerator.backward(loss)
        self._optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(float(loss.detach())):
            raise EntracteError("the loss of the untrained model is not finite", found=float(loss))

    def run(
        self, journal: Journal, say: Callable[[int, float, dict[str, float]], None]
    ) -> dict[str, float]:
        """All steps that are left; the figures of the checkpoint that is kept."""
        plan, every = self._plan, self._settings.every
        done = self._restore()
        journal.begin(done)
        if self._first is None:
            self._first = self._validate()
            journal.write(0, _named(self._first))
            say(0, 0.0, self._first.figures)
        keys = [(s, p) for s in range(done, plan.steps) for p in range(self._settings.accumulate)]
        own = self._accelerator.process_index
        batches = made_ahead(lambda key: plan.batch(*key, own), keys, self._settings.loaders)
        try:
            for step in range(done, plan.steps):
                figures = self._step(step, batches)
                if (step + 1) % every == 0 or step + 1 == plan.steps:
                    verdict = self._validate()
                    figures |= _named(verdict)
                    self._keep(verdict, step + 1)
                journal.write(step + 1, figures)
                if (step + 1) % every == 0:
                    self._save(step + 1)
                say(step + 1, (step + 1) / plan.steps, figures)
        finally:
            batches.close()  # type: ignore[attr-defined]
            journal.close()
        return self._figures()

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, float]:
        """One step of the optimiser; its loss (mean over its rows), rate, norm of the gradient, and time."""
        began, settings, accelerator = time.monotonic(), self._settings, self._accelerator
        rate = settings.learning_rate * rate_at(
            step, self._plan.steps, settings.warmup, settings.final_rate
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        lost = torch.zeros((), device=accelerator.device)
        for part in range(settings.accumulate):
            last = part == settings.accumulate - 1
            torch.manual_seed(chance_of(settings.seed, step, part, accelerator.process_index))
            with nullcontext() if last else accelerator.no_sync(self._model), self._memory():
                batch = next(batches).to(accelerator.device)
                # Gradients are averaged over processes, so the sum here is over this one's own rows.
                loss = answer_loss(self._model, batch) / (settings.batch * settings.accumulate)
                accelerator.backward(loss)
            lost += loss.detach()
        learnt = [t for t in self._model.parameters() if t.requires_grad]
        norm = float(accelerator.clip_grad_norm_(learnt, settings.clip_norm))
        mean = float(accelerator.reduce(lost, "mean"))
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise EntracteError(
                f"step {step + 1}: the loss is not finite",
                found=f"loss {mean}, gradient {norm}",
                remedy="lower learning_rate; the run goes on from its last validation",
            )
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        took = time.monotonic() - began
        return {"loss": mean, "learning_rate": rate, "gradient_norm": norm, "step_s": took}

    @torch.no_grad()
    def _validate(self) -> Verdict:
        plan, settings = self._plan, self._settings
        self._model.eval()
        figures: dict[str, float] = {}
        errors, losses = [], []
        for subject, rows, known in zip(plan.subjects, plan.val, plan.data.signals, strict=True):

            def asked(
                indices: Sequence[int], subject: Subject = subject, rows: list[Row] = rows
            ) -> Iterator[Any]:
                return made_ahead(
                    lambda i: lay_out(plan.writer, subject, rows[i], i), indices, settings.loaders
                )

            learnt = np.array([row.label for row in known.train])
            found, error, loss = measure(
                self._model, subject, rows, learnt, asked, self._accelerator
            )
            figures |= found
            errors.append(error)
            losses.append(loss)
        self._model.train()
        return Verdict(figures, float(np.mean(errors)), float(np.mean(losses)))

    def _keep(self, verdict: Verdict, step: int) -> None:
        """Writes the weights if they are the best so far."""
        if self._best is not None and self._best.rank <= verdict.rank:
            return
        self._best, self._best_step = verdict, step
        tensors = learnt_tensors(self._model, whole=self._settings.method == "full")
        if self._main:
            fresh = self._output / f"{BEST}.new"
            write_weights(self._accelerator.unwrap_model(self._model), tensors, self._base, fresh)
            replace_folder(fresh, self._output / BEST)
        self._accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        told = {
            "step": step,
            "best_step": self._best_step,
            "first": _as_json(self._first),
            "best": _as_json(self._best),
        }
        place = self._output / STATE
        save_state(place, self._what, told, self._model, self._optimiser, self._main)
        self._accelerator.wait_for_everyone()

    def _restore(self) -> int:
        """Steps that are done."""
        place = self._output / STATE
        if not place.exists():
            return 0
        told = told_in(place, self._what)
        alone = self._accelerator.num_processes == 1
        restore_state(place, self._what, self._model, self._optimiser, self._main, alone)
        self._first, self._best = _from_json(told["first"]), _from_json(told["best"])
        self._best_step = int(told["best_step"])
        return int(told["step"])

    def _figures(self) -> dict[str, float]:
        """Of the checkpoint that is kept, of the model before the training, and of the best constant."""
        assert self._first is not None and self._best is not None
        best, first, subjects = self._best, self._first, self._plan.subjects
        blind = [s.error(best.figures[f"{s.metric}_blind"]) for s in subjects]
        before = {k: v for k, v in first.figures.items() if not k.endswith("_blind")}
        return {
            "best_step": float(self._best_step),
            "error": best.error,
            "error_before": first.error,
            "error_blind": float(np.mean(blind)),
            **best.figures,
            **{f"{name}_before": value for name, value in before.items()},
        }

    def _memory(self) -> Any:
        return _OutOfMemory(remedy(self._settings))


class _OutOfMemory:
    """Turns the GPU's own error into one sentence."""

    def __init__(self, ways: str) -> None:
        self._ways = ways

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            first = str(error).split(". ", maxsplit=1)[0]
            raise EntracteError(
                "the GPU's memory ran out", found=first, remedy=self._ways
            ) from error


def _named(verdict: Verdict) -> dict[str, float]:
    shown = {f"val/{name}": value for name, value in verdict.figures.items()}
    return {**shown, "val/error": verdict.error, "val/loss": verdict.loss}


def _as_json(verdict: Verdict | None) -> Any:
    return None if verdict is None else [verdict.figures, verdict.error, verdict.loss]


def _from_json(found: Any) -> Verdict | None:
    return None if found is None else Verdict(dict(found[0]), found[1], found[2])
