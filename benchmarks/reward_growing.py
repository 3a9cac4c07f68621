"""How much faster a growing episode is scored with its caches than prefix by prefix. A ratio within one run.

`python -m benchmarks.reward_growing [MODEL_FOLDER]`; without a folder a Qwen3-VL of random weights (the
tests' own, from a clone of the repository), wide enough that arithmetic, not Python, takes the time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from contracts.frames import Video

RATE_HZ = 2.0


@dataclass(frozen=True)
class GrowingCost:
    """Seconds for all moments of one episode, each scored once; the best of `repeats` runs."""

    frames: int
    cached_s: float
    prefixes_s: float
    largest_difference: float

    @property
    def ratio(self) -> float:
        return self.prefixes_s / self.cached_s


def measure(
    model: Path, frames: int = 40, pixels: int = 128 * 128, repeats: int = 3
) -> GrowingCost:
    """RoboReward's question about an episode of `frames` frames at 2 Hz as it grows, on one thread."""
    import torch

    from trainer.rewards.vlm.factory import make, read_options
    from trainer.rewards.vlm.qwen import QwenEngine

    torch.set_num_threads(1)
    options = {"layout": "append", "most_frames": frames + 2, "pixels": pixels, "least_mass": 0.0}
    reward = make(read_options({"model": str(model), "text_first": True, **options}))
    engine = reward.engine
    assert isinstance(engine, QwenEngine)
    video = _video(frames)
    cached, prefixes = [], []
    for _ in range(repeats):
        engine.forget()
        begin_s = time.perf_counter()
        growing = reward.grow("open the drawer")
        grown = [growing.see(video.until(row)).process for row in range(frames)]
        cached.append(time.perf_counter() - begin_s)
        spent_s = 0.0
        alone = []
        for row in range(frames):
            engine.forget()
            begin_s = time.perf_counter()
            alone.append(reward.score(video.until(row), "open the drawer").process)
            spent_s += time.perf_counter() - begin_s
        prefixes.append(spent_s)
    difference = float(np.abs(np.subtract(grown, alone)).max())
    return GrowingCost(frames, min(cached), min(prefixes), difference)


def table(cost: GrowingCost) -> str:
    return (
        f"{cost.frames} moments of one episode, each scored once: {cost.prefixes_s:.2f} s prefix by prefix, "
        f"{cost.cached_s:.2f} s as it grows: {cost.ratio:.1f} x; "
        f"largest difference of a score {cost.largest_difference:.1e}"
    )


def _random_model(folder: Path) -> Path:
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    from tiny_vlm import build_vlm

    return Path(build_vlm(folder, width=256))


def _video(frames: int) -> Video:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (frames, 128, 128, 3), np.uint8)
    return Video({"front": images}, np.arange(frames) / RATE_HZ, np.arange(frames))


def main() -> None:
    """Prints the ratio; `--json` for the numbers."""
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as scratch:
        cost = measure(folders[0] if folders else _random_model(Path(scratch) / "model"))
    print(
        json.dumps({**asdict(cost), "ratio": cost.ratio}) if "--json" in sys.argv else table(cost)
    )


if __name__ == "__main__":
    main()
