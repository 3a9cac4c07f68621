"""A run folder made by the programs' own writers: logs, store, data set, scores, metrics, releases, truth.

What happens in it is invented (a drawer that slides further as training goes on); the files are real.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
from tiny_package import ACTION, UNITS, make_package

from contracts import wire
from contracts.files.atomic import write_json
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart, Step
from contracts.reward import RewardSignal
from contracts.specs import SO101_JOINTS, CameraSpec, ObservationSpec
from runtime.config import CameraSection, EpisodeSection, PolicySection, RobotConfig
from runtime.run import Run, RunPlan
from trainer.interfaces import EpisodeKey, ScoredEpisode, Update
from trainer.metrics import Metrics
from trainer.publisher import Publisher
from trainer.store import Store

OBSERVATION = ObservationSpec(
    (CameraSpec("front", 128, 96, 10.0, depth=False),), SO101_JOINTS, UNITS
)
INSTRUCTION = "open the drawer"
STEPS, LIMIT_S, RATE_HZ, RESET_S = 40, 4.0, 10.0, 1.5
THRESHOLD = 0.8


class MadeRun:
    """Builds `root` phase by phase; leave phases out for a run that was cut short. `wait_s`: what the robot
    stands after every iteration, by the wall clock; 0: its clock is simulated. `real`: a real robot's, whose
    scenes have no number, with a person's labels and nobody's truth."""

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        per_iteration: int = 4,
        wait_s: float = 0.0,
        real: bool = False,
    ) -> None:
        self.real = real
        self.root, self.rng, self.per_iteration = root, np.random.default_rng(seed), per_iteration
        self.wait_s, self.clock_s = wait_s, 100.0
        self.store = Store(root / "trainer/store")
        self.metrics = Metrics(root / "trainer/metrics.jsonl")
        package = make_package(root / "package")
        self.package = package
        self.publisher = Publisher(root / "trainer/releases", package.manifest)
        self.seq, self.arrival, self.pending = 0, 0, []
        for part in ("robot", "eval/base", "eval/final"):
            (root / part).mkdir(parents=True)
        config = RobotConfig(
            pace="realtime" if wait_s else "asap",
            cameras={"front": CameraSection(depth=False)},
            policy=PolicySection(package=str(root / "package")),
            episode=EpisodeSection(max_s=LIMIT_S),
        )
        config = msgspec.structs.replace(
            config,
            iteration=msgspec.structs.replace(config.iteration, episodes=per_iteration),
        )
        Run(
            config=config, plan=RunPlan(), run_dir=str(root / "robot"), shm_dir="", session_id="s1"
        ).save()

    def demo(self, iterations: int, ended: str = "complete") -> None:
        """What `robot-run demo` writes."""
        write_json(
            self.root / "demo.json",
            {
                "task": "open-drawer",
                "reward": "demo",
                "seed": 0,
                "iterations": iterations,
                "started_unix_s": 1.79e9,
                "ended_unix_s": 1.79e9 + 612,
                "ended": ended,
                "versions": {"python": "3.11", "entracte": "0.1.0"},
                "processes": [
                    {
                        "name": "trainer",
                        "command": "robot-trainer serve --run-dir run/demo/trainer",
                        "exit_code": 0,
                    }
                ],
            },
        )

    def evaluate(self, which: str, count: int, skill: float) -> None:
        for scene in range(count):
            # The same scene is as easy for both policies: that is what pairing uses.
            easy = np.random.default_rng(1000 + scene).random()
            success = bool(easy < skill + 0.1 * self.rng.normal())
            version = 0 if which == "base" else self.publisher.newest_seq
            self._episode("evaluate", which, 1000 + scene, success, version, judged=False)

    def iterate(self, number: int, skill: float) -> None:
        """Episodes, scores, an update that is published, and the robot's answer."""
        successes = 0
        for _ in range(self.per_iteration):
            success = bool(self.rng.random() < skill)
            seed = int(self.rng.integers(1 << 20))
            judged = self._episode("refine", "", seed, success, number - 1, judged=True)
            successes += judged is True
        tensors = {name: value + 0.01 for name, value in self.package.refinable_weights().items()}
        manifest = self.publisher.prepare(Update(tensors, 3), number)
        self.publisher.commit(manifest.publish_seq)
        self.metrics.add(
            "iteration",
            iteration=number,
            last_arrival=self.store.entries[-1].arrival,
            episodes=self.per_iteration,
            successes=successes,
            abstained=0,
            update_s=2.0 + self.rng.random(),
            publish_seq=manifest.publish_seq,
            nbytes=manifest.nbytes,
            metrics={"loss": 0.1},
        )
        staged = 0.02 + 0.02 * self.rng.random()
        self.metrics.add(
            "release",
            target="policy",
            publish_seq=manifest.publish_seq,
            outcome="committed",
            reason="",
            episode_seq=self.seq,
            bytes_on_wire=manifest.nbytes,
            publish_to_verified_s=staged - 0.004,
            publish_to_staged_s=staged,
            publish_to_swapped_s=staged + 0.1 + 0.1 * self.rng.random(),
        )
        self.clock_s += self.wait_s

    def _episode(
        self, purpose: str, which: str, seed: int, success: bool, version: int, *, judged: bool
    ) -> bool | None:
        self.seq += 1
        session = f"s-{which}" if which else "s1"
        steps = int(STEPS * (0.5 + 0.4 * self.rng.random())) if success else STEPS
        reach = 1.0 if success else 0.25 + 0.6 * self.rng.random()
        progress = reach * np.clip(np.linspace(-0.15, 1.05, steps), 0, 1) ** 1.3
        key = EpisodeKey("bench-0", session, self.seq)
        log = EpisodeLogWriter(self.root / f"{key}.elog")
        signals = self._signals(progress, fooled=judged and not success and self.rng.random() < 0.1)
        seed = -1 if self.real else seed
        for parts in self._packets(key, purpose, seed, version, progress=progress, signals=signals):
            log.append(parts)
        done = log.finish()
        self.store.accept(key, done.path, done.sha256)
        entry = self.store.entry(key)
        verdict = signals[-1].completion >= THRESHOLD
        if judged:
            scored = ScoredEpisode(
                self.store.load(entry), tuple(signals), verdict, "edge-1", scoring_s=0.1
            )
            self.store.save_scores(scored)
            self.metrics.add(
                "episode",
                session_id=session,
                episode_seq=self.seq,
                success=verdict,
                completion=signals[-1].completion,
                process=signals[-1].process,
            )
        self.store.write_dataset(entry, keep_log=False)
        if self.real:
            return verdict if judged else None
        path = self.root / (f"eval/{which}/truth.jsonl" if which else "robot/truth.jsonl")
        row = {
            "task": "open_drawer",
            "seed": seed,
            "instruction": INSTRUCTION,
            "episode_seq": self.seq,
            "session_id": session,
            "purpose": purpose,
            "success": success,
            "progress": round(float(progress[-1]), 4),
            "steps": steps,
            "reason": "time_limit",
            "policy_version": version,
        }
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return verdict if judged else None

    def _signals(self, progress: np.ndarray, fooled: bool) -> list[RewardSignal]:
        found = []
        for step in range(0, len(progress), 2):
            p = float(np.clip(progress[step] + 0.05 * self.rng.normal(), 0, 1))
            done = 1 / (1 + math.exp(-14 * (float(progress[step]) - (0.55 if fooled else 0.9))))
            earlier = progress[max(0, step - 10)]
            c = float(np.clip(3 * (progress[step] - earlier) + 0.1 * self.rng.normal(), -1, 1))
            found.append(RewardSignal(step, p, done, c, model_id="edge-1"))
        return found

    def _packets(
        self,
        key: EpisodeKey,
        purpose: str,
        seed: int,
        version: int,
        *,
        progress: np.ndarray,
        signals: list[RewardSignal],
    ) -> Iterator[list[bytes | memoryview]]:
        robot_id, session_id, seq = key
        yield wire.pack(
            SessionStart(
                robot_id, session_id, OBSERVATION, ACTION, "", "", "cfg", "0.1.0", "asap", RATE_HZ
            )
        )
        start = EpisodeStart(
            robot_id, session_id, seq, INSTRUCTION, "open_drawer", purpose, version, "p", 0, "r",
            seed, 1.79e9 + seq,
        )  # fmt: skip
        yield wire.pack(start)
        scored = {signal.step: signal for signal in signals}
        for index, done in enumerate(progress):
            now = self.clock_s + index / RATE_HZ
            gate = int(self.rng.choice([0, 2, 4, 8], p=[0.7, 0.15, 0.14, 0.01]))
            step = Step(
                index=index,
                tick_s=now,
                captured_s={"front": now},
                received_s={"front": now + 0.001},
                state_s=now,
                inference_started_s=now,
                actuated_s=now,
                lateness_s=abs(float(self.rng.normal())) * 2e-4,
                state=(0.0, 1.0, 2.0, 3.0, 4.0, 50.0),
                action=(1.0,) * 6,
                requested=(1.0,) * 6,
                gate=gate,
                chunk=index // 8,
                chunk_index=index % 8,
                policy_version=version,
                reward_version=0,
                reward=scored.get(index),
            )
            yield wire.pack(step, [wire.raw("front.colour", picture(float(done), seed))])
        timings = {
            f"{name}_{which}_s": base * factor
            for name, base in (("sense", 8e-4), ("infer", 9e-3), ("gate", 6e-5), ("act", 1.5e-4))
            for which, factor in (("p50", 1.0), ("p99", 2.2), ("max", 5.0))
        }
        label = bool(progress[-1] >= 1.0) if self.real else None
        yield wire.pack(EpisodeEnd(seq, len(progress), "time_limit", label, timings=timings))
        self.clock_s += len(progress) / RATE_HZ + RESET_S


def picture(progress: float, seed: int) -> np.ndarray:
    """uint8[96, 128, 3]: a cabinet whose drawer stands out by `progress`."""
    shade = 150 + seed % 60
    frame = np.full((96, 128, 3), (shade, shade - 6, shade - 14), np.uint8)
    cv2.rectangle(frame, (30, 12), (98, 48), (96, 74, 52), -1)
    out = round(30 * progress)
    cv2.rectangle(frame, (38, 40), (90, 52 + out), (132, 102, 70), -1)
    cv2.circle(frame, (64, 47 + out), 3, (40, 40, 44), -1)
    cv2.line(frame, (127, 95), (66, 50 + out), (230, 120, 40), 4)
    return frame
