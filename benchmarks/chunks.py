"""How one action chunk goes over into the next, closed loop on the bench: success, and the splice's jump.

`python -m benchmarks.chunks --package P --output docs/results/loop/chunks.json`: paired scenes, simulated
clock, one run per way and inference latency; cells that are in the output already are not run again. The
package's head must take a prefix (docs/loop.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from contracts.errors import EntracteError
from contracts.files import atomic, outputs
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import Step
from runtime.config import load_config
from runtime.link.spool import SUFFIX
from runtime.processes.supervisor import supervise
from runtime.run import RunPlan

WAYS = {
    "splice": ["policy.chunks=splice"],
    "realtime": ["policy.chunks=realtime"],
    "realtime, fade 3": ["policy.chunks=realtime", "policy.fade_steps=3"],
    "ensemble": ["policy.chunks=ensemble"],
}
"""Name of a way: what it sets."""
LATENCIES = (1, 2, 4)
JOINTS = slice(0, 5)
"""Those in degrees; the gripper is in percent."""


def measure(
    package: Path, way: str, latency_ticks: int, episodes: int, execute: int, seed_base: int
) -> dict[str, Any]:
    """One cell: `episodes` scenes of open_drawer."""
    folder = Path(tempfile.mkdtemp(prefix="entracte-chunks-"))
    config = load_config(
        None,
        [
            f"policy.package={package.resolve()}",
            f"policy.execute_steps={execute}",
            f"loop.inference_latency_ticks={latency_ticks}",
            f"episode.seed_base={seed_base}",
            *("episode.task=open-drawer", "link.live=false", "recording.depth=false"),
            *WAYS[way],
        ],
    )
    try:
        plan = RunPlan(purpose="evaluate", episodes=episodes, sink="link")
        outcome = supervise(config, plan, folder)
        if outcome.code:
            raise EntracteError("the run failed", found=outcome.what)
        rows = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
        paths = [_requested(log) for log in sorted((folder / "spool").glob(f"*{SUFFIX}"))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "way": way,
        "latency_ticks": latency_ticks,
        "execute_steps": execute,
        "success": [bool(row["success"]) for row in rows],
        "held_ticks": outcome.report["held_ticks"],
        **jumps(paths),
    }


def jumps(paths: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Of (requested [T, joints], chunk [T]) per episode, in deg, the joint that moves most: how far a request
    is from where the two before it lead, at a change of chunk and elsewhere."""
    at: dict[str, list[float]] = {"splice": [], "within": []}
    for requested, chunk in paths:
        for t in range(2, len(chunk)):
            if chunk[t - 2] < 0 or chunk[t - 1] != chunk[t - 2]:
                continue
            kink = requested[t] - 2 * requested[t - 1] + requested[t - 2]
            size = float(np.abs(kink[JOINTS]).max())
            at["within" if chunk[t] == chunk[t - 1] else "splice"].append(size)
    found: dict[str, Any] = {"splices": len(at["splice"])}
    for name, sizes in at.items():
        found |= {
            f"{name}_{key}_deg": round(float(np.quantile(sizes, share)), 3)
            for key, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
        }
    return found


def _requested(log: Path) -> tuple[np.ndarray, np.ndarray]:
    steps = [p.message for p in EpisodeLogReader(log).packets() if isinstance(p.message, Step)]
    return np.array([s.requested for s in steps]), np.array([s.chunk for s in steps])


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: a line per way and latency."""
    lines = [
        "| latency, ticks | chunks | success | jump at a splice p50 / p95 / max, deg "
        "| within a chunk p50 / p95 | held ticks |",
        "|---|---|---|---|---|---|",
    ]
    for cell in sorted(cells, key=lambda c: (c["latency_ticks"], list(WAYS).index(c["way"]))):
        lines.append(
            f"| {cell['latency_ticks']} | {cell['way']} | {sum(cell['success'])} of {len(cell['success'])} | "
            f"{cell['splice_p50_deg']:.2f} / {cell['splice_p95_deg']:.2f} / {cell['splice_max_deg']:.2f} | "
            f"{cell['within_p50_deg']:.2f} / {cell['within_p95_deg']:.2f} | {cell['held_ticks']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.chunks", description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--execute-steps", type=int, default=8)
    parser.add_argument("--seed-base", type=int, default=1_000_000)
    given = parser.parse_args()
    outputs.require_file(given.output, "the cells", outputs.json_with("machine", "cells"))
    cells = json.loads(given.output.read_text())["cells"] if given.output.exists() else []
    done = {(cell["way"], cell["latency_ticks"]) for cell in cells}
    for latency, way in itertools.product(LATENCIES, WAYS):
        if (way, latency) in done:
            continue
        cells.append(
            measure(
                given.package, way, latency, given.episodes, given.execute_steps, given.seed_base
            )
        )
        found = {"machine": machine(), "cells": cells}
        atomic.write_bytes(given.output, json.dumps(found, indent=1).encode())
        print(table(cells[-1:]).splitlines()[-1], flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
