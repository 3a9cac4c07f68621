"""What a fine-tuning writes of itself: figures of each step as JSON lines and for TensorBoard, where it comes
from, and the options with which the reward model `vlm` uses its result."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import yaml

from contracts.errors import MissingDependency
from contracts.files import atomic
from trainer.rewards.tuning.settings import Tuning
from trainer.rewards.vlm.factory import Options
from trainer.rewards.vlm.question import Question

METRICS, RUN, OPTIONS = "metrics.jsonl", "run.json", "vlm.yaml"
BOARD = "tensorboard"
_VERSIONS = ("entracte", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")


class Journal:
    """The figures of one run in its output folder. `enabled` False (all processes but the first): silent."""

    def __init__(self, folder: Path, tensorboard: str, enabled: bool) -> None:
        """Raises `MissingDependency` for tensorboard "on" without it."""
        self._path, self._enabled = folder / METRICS, enabled
        self._board_folder = folder / BOARD
        self._writer = _writer_class(tensorboard) if enabled else None
        self._board: Any = None

    def begin(self, done: int) -> None:
        """Goes on behind step `done`: what a stopped run wrote after it is dropped, it comes again."""
        if not self._enabled:
            return
        lines = self._path.read_text().splitlines() if done and self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= done]
        atomic.write_bytes(self._path, "".join(f"{line}\n" for line in kept).encode())
        if self._writer:
            self._board = self._writer(str(self._board_folder), purge_step=done + 1)

    def write(self, step: int, figures: dict[str, float]) -> None:
        if not self._enabled:
            return
        line = json.dumps({"step": step, **figures})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board:
            self._board.close()


def _step_of(line: str) -> float:
    """A line that was cut off by a stop counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _writer_class(wanted: str) -> Any:
    if wanted == "off":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        if wanted == "auto":
            return None
        raise MissingDependency(
            "tensorboard: on needs tensorboard", remedy="pip install 'entracte[vlm]' tensorboard"
        ) from error
    return SummaryWriter


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_options(
    path: Path, settings: Tuning, questions: Mapping[str, Question], base: Path, best: Path
) -> None:
    """Options of the reward model `vlm` that use what was trained, only those that aren't defaults.

    `questions`: by the signal trained. `vlm` gives no field twice: of two that do the first is asked."""
    asked: list[str] = []
    given: set[str] = set()
    for signal, question in questions.items():
        if not given & set(question.gives):
            asked.append(signal)
            given |= set(question.gives)
    changes: dict[str, Any] = {"signals": tuple(asked)}
    if settings.method == "lora":
        changes |= {"model": str(base), "adapters": dict.fromkeys(asked, str(best))}
    else:
        changes |= {"model": str(best)}
    told = msgspec.to_builtins(msgspec.structs.replace(settings.vlm, **changes))
    plain = msgspec.to_builtins(Options())
    shown = {k: v for k, v in told.items() if v != plain[k] or k == "signals"}
    text = yaml.safe_dump(shown, sort_keys=False)
    others = [signal for signal in questions if signal not in asked]
    if others:
        text = f"# Trained too, instead of one that gives the same: {', '.join(others)}\n{text}"
    atomic.write_bytes(path, text.encode())
