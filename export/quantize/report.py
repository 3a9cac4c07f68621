"""What quantising measured, as JSON and as Markdown. Holds whatever there is: a refusal has a report too."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from calibration.quantization.card import Card
from contracts.files import atomic, outputs
from contracts.files.packages import Package, safetensors_bytes
from export.parity.bench import ClosedLoop
from export.quantize.chain import RangeError, worst
from export.quantize.gate import power
from export.quantize.layers import Kept, LayerError

JSON_FILE, TEXT_FILE = "quantization.json", "quantization.md"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of the trunk on ONNX Runtime's CPU provider, one thread: before and after."""

    before_p50: float
    before_p90: float
    after_p50: float
    after_p90: float
    runs: int

    @property
    def ratio(self) -> float:
        return self.after_p50 / self.before_p50


@dataclass
class Report:
    """Filled in as `build.quantize` goes. `errors`: on held-out observations; `own_spread`: how far two
    noises move the float32 policy's chunks there, the same measure; `methods`: worst p99 of each calibration
    method on the calibration samples, all layers in INT8."""

    precision: str
    package: str
    package_id: str
    command: str
    limits: dict[str, float]
    card: Card | None = None
    method: str = ""
    methods: dict[str, float] = field(default_factory=dict)
    layers: list[LayerError] = field(default_factory=list)
    kept: Kept | None = None
    errors: list[RangeError] = field(default_factory=list)
    own_spread: list[RangeError] = field(default_factory=list)
    success: ClosedLoop | None = None
    latency: Latency | None = None
    largest_activation: float = 0.0
    bytes_before: dict[str, int] = field(default_factory=dict)
    bytes_after: dict[str, int] = field(default_factory=dict)
    made_id: str = ""
    refused: str = ""

    def finish(self, before: Package, after: Package) -> None:
        """What the written package is."""
        self.made_id = after.package_id
        self.bytes_before, self.bytes_after = _bytes(before), _bytes(after)

    def json(self) -> bytes:
        tree: dict[str, Any] = {
            name: value for name, value in asdict(self).items() if name not in ("card", "kept")
        }
        tree["kept_float"] = (
            {"layers": self.kept.layers, "worst_p99_by_count": self.kept.tried}
            if self.kept
            else None
        )
        if self.success:
            tree["success"] |= {"left": "float32", "right": self.precision}
        if self.latency:
            tree["latency"]["ratio"] = self.latency.ratio
        if self.card:
            tree["calibration"] = {
                "fitness": self.card.fitness,
                "findings": self.card.findings,
                "samples": self.card.calibration.samples,
                "held_out": self.card.held_out.samples,
                "sha256": self.card.calibration.sha256,
                "sources": [msgspec.to_builtins(source) for source in self.card.sources],
                "command": self.card.command,
            }
        return msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n"

    def text(self) -> str:
        """Markdown: verdict, sizes, errors per joint, closed loop, latency, layers."""
        verdict = f"**refused**: {self.refused}" if self.refused else f"package {self.made_id}"
        lines = [
            f"# {self.precision} of {self.package} ({self.package_id})",
            "",
            f"`{self.command}`",
            "",
            f"Result: {verdict}",
            "",
            *self._set_lines(),
            *self._size_lines(),
            *self._error_lines(),
            *self._success_lines(),
            *self._layer_lines(),
        ]
        return "\n".join(lines) + "\n"

    def verdict(self, folder: Path) -> str:
        """The end of it in a sentence: `folder` was written, and how far the gates were from refusing."""
        one = worst(self.errors)
        gates = [
            f"worst p99 {one.p99:.2f} % of {one.name}'s range (limit {self.limits['action']:g} %)"
        ]
        if self.success:
            s = self.success
            gates.append(
                f"success {100 * s.difference:+.1f} points [{100 * s.low:+.1f}, {100 * s.high:+.1f}] "
                f"(limit -{self.limits['success']:g})"
            )
        passed = "gates passed" if self.success else "gate of actions passed"
        unmeasured = "" if self.success else "; closed loop not measured (--bench TASK does)"
        return f"written to {folder}, {passed}: {'; '.join(gates)}{unmeasured}"

    def _set_lines(self) -> list[str]:
        if self.card is None:
            return []
        names = ", ".join(source.name for source in self.card.sources)
        lines = [
            f"Calibration: {self.card.calibration.samples} steps of {names}, held out "
            f"{self.card.held_out.samples} of other episodes; the set is {self.card.fitness}"
            f"{': ' + '; '.join(self.card.findings) if self.card.findings else ''}.",
        ]
        if self.methods:
            tried = ", ".join(f"{name} {value:.2f} %" for name, value in self.methods.items())
            lines.append(
                f"Ranges by {self.method} (worst p99 on the calibration samples, all in INT8: {tried})."
            )
        return [*lines, ""]

    def _size_lines(self) -> list[str]:
        if not self.bytes_after:
            return []
        rows = [
            f"| {name} | {self.bytes_before[name]:,} | {self.bytes_after[name]:,} | "
            f"{self.bytes_after[name] / self.bytes_before[name]:.2f} |"
            for name in self.bytes_before
        ]
        return ["| bytes | float32 | this | ratio |", "|---|---|---|---|", *rows, ""]

    def _error_lines(self) -> list[str]:
        if not self.errors:
            return []
        spread = {one.name: one.p99 for one in self.own_spread}
        rows = [
            f"| {one.name} | {one.mean:.3f} | {one.p99:.3f} | {one.largest:.3f} | "
            f"{spread.get(one.name, 0.0):.2f} |"
            for one in self.errors
        ]
        one = worst(self.errors)
        return [
            f"Error of the whole chunk on held-out observations, percent of the range; limit p99 "
            f"{self.limits['action']:g} %, worst {one.name}. Last column: two noises, float32, p99.",
            "",
            "| joint or signal | mean | p99 | largest | two noises |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]

    def closed_loop(self) -> str:
        """What the bench said, in a sentence."""
        if self.success is None:
            return "Closed loop: not measured."
        s = self.success
        left, right = (100 * one / s.episodes for one in (s.successes_left, s.successes_right))
        return (
            f"Closed loop on {s.task}, {s.episodes} paired episodes: float32 {left:.1f} %, this "
            f"{right:.1f} %, difference {100 * s.difference:+.1f} points [{100 * s.low:+.1f}, "
            f"{100 * s.high:+.1f}]."
        )

    def _success_lines(self) -> list[str]:
        lines = [self.closed_loop()] if self.errors else []
        if self.success:
            s, limit = self.success, self.limits["success"]
            passes = power((s.lost + s.won) / s.episodes, s.episodes, limit)
            lines.append(
                f"Float32 alone succeeds in {s.lost}, this alone in {s.won}. The interval must lie above "
                f"-{limit:g}; a package that lost nothing passes with probability {passes:.2f}."
            )
        lines += [""] if lines else []
        if self.latency:
            t = self.latency
            lines += [
                f"Trunk on the CPU, one thread, {t.runs} runs in turns: {t.before_p50:.2f} ms float32, "
                f"{t.after_p50:.2f} ms this (ratio {t.ratio:.2f}; p90 {t.before_p90:.2f} and "
                f"{t.after_p90:.2f}).",
                "",
            ]
        return lines

    def _layer_lines(self) -> list[str]:
        if not self.layers:
            return []
        kept = set(self.kept.layers) if self.kept else set()
        rows = [
            f"| {one.layer} | {one.weights:,} | {one.joint} | {one.p99:.3f} | "
            f"{'yes' if one.layer in kept else ''} |"
            for one in self.layers
        ]
        return [
            "One layer quantised at a time: worst joint's p99, percent of its range (calibration samples).",
            "",
            "| layer | weights | worst joint | p99 | left in float32 |",
            "|---|---|---|---|---|",
            *rows,
        ]


def require_folder(folder: Path) -> None:
    """Raise `ConfigError` unless a report may be written there."""
    outputs.require_folder(folder, "the report", outputs.only(JSON_FILE, TEXT_FILE))


def write(folder: Path, report: Report) -> None:
    """Both forms into `folder`."""
    atomic.write_bytes(folder / TEXT_FILE, report.text().encode())
    atomic.write_bytes(folder / JSON_FILE, report.json())


def _bytes(package: Package) -> dict[str, int]:
    files = sum(path.stat().st_size for path in package.folder.iterdir())
    return {
        "package": files,
        "trunk weights": len(safetensors_bytes(package.graph_weights("trunk"))),
        "head weights": len(safetensors_bytes(package.graph_weights("head"))),
    }
