"""Measures one reward backend: `python -m benchmarks.reward_backends JOB` prints one JSON line.

Pictures are noise: what is in them costs the same, and an answer that abstains is made all the way too.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.machine import resident_mb
from benchmarks.reward import Job, Row
from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import Package, load_package
from contracts.frames import Video

INSTRUCTION = "open the drawer"
WARM_UP = 3
MANY = 64
"""Moments of the episode that an edge model scores at once."""
BATCH = 8

Made = Callable[[int], Any]
Work = Callable[[Any], Any]


def pairs(make: Made, score: Work, bare: Work | None, rounds: int) -> dict[str, float]:
    """Times score and bare in turn, both on what `make(number)` gives: a new input each round, not timed."""
    spent, beside = [], []
    for number in range(WARM_UP + rounds):
        given = make(number)
        # Who comes second finds caches warm: they take turns at it.
        if bare and number % 2:
            beside.append(_timed(bare, given))
        spent.append(_timed(score, given))
        if bare and not number % 2:
            beside.append(_timed(bare, given))
    spent, beside = spent[WARM_UP:], beside[WARM_UP:]
    found = {"p50_s": statistics.median(spent), "p99_s": float(np.quantile(spent, 0.99))}
    if bare:
        found["bare_s"] = statistics.median(beside)
        found["over_bare"] = statistics.median([a / b for a, b in zip(spent, beside, strict=True)])
    return found


def rate(make: Made, work: Work, moments: int, repeats: int = 3) -> float:
    """Moments a second: the median of `repeats` calls that score `moments` each."""
    spent = [_timed(work, make(1000 + number)) for number in range(repeats)]
    return moments / statistics.median(spent)


def _timed(work: Work, given: Any) -> float:
    begin_s = time.perf_counter()
    work(given)
    return time.perf_counter() - begin_s


def _views(package: Package, frames: int) -> Made:
    """Noise of the package's own size for each of its cameras."""
    m = package.manifest
    shape = (frames, m.image_height, m.image_width, 3)

    def make(number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(number)
        return {camera: rng.integers(0, 255, shape, np.uint8) for camera in m.cameras}

    return make


class BareGraphs:
    """The package's two graphs in ONNX Runtime sessions and nothing around them: what any code of the edge
    model must pay."""

    def __init__(self, package: Package, threads: int) -> None:
        import onnxruntime as ort

        self._kept: list[Any] = []
        self._sessions: dict[str, Any] = {}
        for graph in ("trunk", "head"):
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            tensors = package.graph_weights(graph)
            values = [ort.OrtValue.ortvalue_from_numpy(tensors[name].copy()) for name in tensors]
            options.add_external_initializers([*tensors], values)
            self._kept += values
            self._sessions[graph] = ort.InferenceSession(
                package.graphs[graph], options, providers=["CPUExecutionProvider"]
            )
        self._tokens = np.zeros((1, package.manifest.instruction_length), np.int64)

    def run(self, views: Mapping[str, np.ndarray]) -> None:
        """Pictures uint8[N, H, W, 3] a camera through the trunk, one moment through the head."""
        feed = {f"images.{camera}": images for camera, images in views.items()}
        begin = self._sessions["trunk"].run(None, feed)[0]
        one = begin[:1]
        self._sessions["head"].run(
            None, {"first": one, "earlier": one, "current": begin[-1:], "tokens": self._tokens}
        )


def robot(job: Job, kind: str) -> dict[str, Any]:
    """`runtime.models.reward.RewardRunner`, opened as the robot opens it."""
    from runtime.config import load_config
    from runtime.models.reward import RewardRunner, open_reward
    from runtime.run import Run, RunPlan

    words = [f"reward.package={Path(job.package).resolve()}", f"reward.engine={kind}"]
    config = load_config(None, ["link.enabled=false", *words, f"reward.threads={job.threads}"])
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        run = Run(config, RunPlan(purpose="evaluate", sink="none"), folder, folder, "bench")
        runner = open_reward(run)
        assert isinstance(runner, RewardRunner)
        runner.swapper.start()
        bare = BareGraphs(runner.package, job.threads)
        steps = itertools.count()

        def score(views: Mapping[str, np.ndarray]) -> None:
            runner.score({camera: images[0] for camera, images in views.items()}, next(steps))

        def episode(views: Mapping[str, np.ndarray]) -> None:
            runner.begin_episode(INSTRUCTION)
            for step in range(MANY):
                runner.score({camera: images[step] for camera, images in views.items()}, step)

        try:
            runner.begin_episode(INSTRUCTION)
            found = pairs(_views(runner.package, 1), score, bare.run, job.rounds)
            found["per_s"] = rate(_views(runner.package, MANY), episode, MANY)
            model_id = runner.model_id
        finally:
            runner.close()
    return found | {
        "model_id": model_id,
        "what": f"one moment of both cameras, as the robot's loop has it made (engine {kind})",
        "many": "one after the other, as the robot scores",
        "bare": "session.run of trunk and head on the same pictures",
    }


def edge(job: Job) -> dict[str, Any]:
    from trainer.rewards.edge import EdgeReward

    package = load_package(Path(job.package))
    model = EdgeReward(package=Path(job.package), options={"threads": job.threads})
    bare = BareGraphs(package, job.threads)
    times_s, steps = np.array([0.0, 2.0, 4.0]), np.arange(3)

    def score(views: Mapping[str, np.ndarray]) -> None:
        model.score(Video(views, times_s, steps), INSTRUCTION)

    def episode(views: Mapping[str, np.ndarray]) -> None:
        model.score_frames(INSTRUCTION, views, range(MANY), 6)

    found = pairs(_views(package, 3), score, bare.run, job.rounds)
    return found | {
        "per_s": rate(_views(package, MANY), episode, MANY),
        "model_id": model.model_id,
        "what": "one moment of a video: its first frame, the one 2 s ago and the last",
        "many": f"an episode of {MANY} moments at once, as the daemon scores",
        "bare": "session.run of the trunk on three frames and of the head",
    }


def edge_torch(job: Job) -> dict[str, Any]:
    """The same weights in the modules that were trained."""
    import torch

    from trainer.rewards.edge_twin import head_of_package, shape_of
    from trainer.rewards.train_edge import embed, new_edge, score

    torch.set_num_threads(job.threads)
    package = load_package(Path(job.package))
    m = package.manifest
    if m.cameras != ("front", "wrist"):
        raise ConfigError("cameras of the package", expected="front, wrist", found=m.cameras)
    made = new_edge(shape_of(m, package.graph_weights("head")), tuple(m.vocabulary), 0)
    made.head = head_of_package(package)
    made.trunk.fuse()
    weights = package.graph_weights("trunk")
    made.trunk.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    made.trunk.eval()
    bare = BareGraphs(package, job.threads)

    def work(views: Mapping[str, np.ndarray]) -> None:
        score(made, embed(made.trunk, views["front"], views["wrist"]), INSTRUCTION)

    found = pairs(_views(package, 3), work, bare.run, job.rounds)
    return found | {
        "per_s": rate(_views(package, MANY), work, MANY),
        "what": "three frames and their signals in torch",
        "many": f"an episode of {MANY} moments at once",
        "bare": "session.run of the same graphs in ONNX Runtime",
    }


def vlm(job: Job) -> dict[str, Any]:
    """Beside each score, how much of it was spent in the model's own forward passes."""
    import torch

    model = _vlm(job)
    clock = _Forwards(model.engine)

    whole: list[float] = []
    inside: list[float] = []

    def score(videos: list[Video]) -> None:
        clock.spent_s = 0.0
        begin_s = time.perf_counter()
        model.score(videos[0], INSTRUCTION)
        whole.append(time.perf_counter() - begin_s)
        inside.append(clock.spent_s)

    def together(videos: list[Video]) -> None:
        model.score_batch([(video, INSTRUCTION) for video in videos])

    pairs(_videos(model, 1), score, None, max(3, job.rounds // 3))
    whole, inside = whole[WARM_UP:], inside[WARM_UP:]
    share = [a / b for a, b in zip(whole, inside, strict=True) if b > 0]
    gpu = torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0
    return {
        "p50_s": statistics.median(whole),
        "p99_s": float(np.quantile(whole, 0.99)),
        "bare_s": statistics.median(inside),
        "over_bare": statistics.median(share) if share else 0.0,
        "per_s": rate(_videos(model, BATCH), together, BATCH),
        "model_id": model.model_id,
        "gpu_mb": gpu,
        "what": "a video of 8 frames that was never seen, RoboReward's question",
        "many": f"{BATCH} such videos in one forward pass",
        "bare": "the same score's time in the forward passes of the model's vision and language parts",
        "more": _growing(job),
    }


def _videos(model: Any, count: int) -> Made:
    """So many videos of 8 frames that were never seen."""
    from benchmarks.reward_server import Load, some_videos

    return lambda number: some_videos(model.contract, Load(count, 1, 8), number)


def _growing(job: Job) -> dict[str, float]:
    """What the caches are worth on an episode that goes on."""
    from benchmarks.reward_growing import measure

    frames = 20
    cost = measure(Path(job.model), frames=frames, repeats=1)
    return {
        "frames of a growing episode": frames,
        "times faster than prefix by prefix": round(cost.ratio, 2),
        "largest difference of a score": float(f"{cost.largest_difference:.1e}"),
    }


def _vlm(job: Job) -> Any:
    from trainer.rewards.vlm.factory import make, read_options

    if not job.model:
        raise ConfigError(
            "no vision-language model",
            remedy="name a folder with --vlm (a clone of the repository makes a tiny one)",
        )
    options = {"model": job.model, "device": job.device, "threads": job.threads, **job.options}
    return make(read_options(options))


class _Forwards:
    """Seconds that the parts of a vision-language model spent in their forward passes, by torch's hooks."""

    def __init__(self, engine: Any) -> None:
        import torch

        self._wait: Any = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        self.spent_s = 0.0
        self._begun_s = 0.0
        # No public way leads to the modules, and nobody else needs one.
        whole = getattr(engine, "_parts", None)
        parts = [getattr(whole, name, None) for name in ("visual", "language_model")]
        for part in parts:
            if part is not None:
                part.register_forward_pre_hook(self._begin)
                part.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._wait()
        self._begun_s = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self._wait()
        self.spent_s += time.perf_counter() - self._begun_s


def remote(job: Job, of_vlm: bool) -> dict[str, Any]:
    """A server in this process, its askers in another; beside it the model called directly."""
    from benchmarks.reward_server import Load, measure
    from trainer.rewards.edge import EdgeReward

    options = {"threads": job.threads}
    model = _vlm(job) if of_vlm else EdgeReward(package=Path(job.package), options=options)
    load = Load(instruction=INSTRUCTION)
    found = measure(model, load, max(2, job.rounds // 12))
    each = load.questions
    return {
        "model_id": model.model_id,
        "p50_s": found.serial_s / each,
        "bare_s": found.direct_s / each,
        "over_bare": found.serial_s / found.direct_s,
        "per_s": each / found.concurrent_s,
        "what": f"one asker's question about a video of {load.frames} frames (mean of {each})",
        "many": f"{load.askers} askers at once",
        "bare": "the model called directly in the server's process",
        "more": {
            "times the throughput of one asker": round(found.over_serial, 2),
            "times that of direct calls": round(found.over_direct, 2),
            "questions a forward pass": round(found.questions_a_pass, 1),
            "questions": each * found.rounds,
            "forward passes": found.passes,
        },
    }


def endpoint(job: Job) -> dict[str, Any]:
    """An OpenAI-compatible server, as it answers RoboReward's question; beside it one word of text."""
    import httpx

    from trainer.rewards.endpoint.factory import endpoint as factory

    if not job.endpoint or not job.endpoint_model:
        raise ConfigError("no endpoint", remedy="give --endpoint URL and --endpoint-model NAME")
    options = {"url": job.endpoint, "model": job.endpoint_model}
    model: Any = factory(package=None, demonstrations=(), options=options, seed=0).model
    body = {
        "model": job.endpoint_model,
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": 1,
    }
    client = httpx.Client(timeout=60.0)
    silent: list[str] = []

    def score(videos: list[Video]) -> None:
        silent.append(model.score(videos[0], INSTRUCTION).abstained)

    def together(videos: list[Video]) -> None:
        model.score_batch([(video, INSTRUCTION) for video in videos])

    def word(_: list[Video]) -> None:
        client.post(f"{job.endpoint.rstrip('/')}/chat/completions", json=body).raise_for_status()

    found = pairs(_videos(model, 1), score, word, max(3, job.rounds // 6))
    return found | {
        "per_s": rate(_videos(model, BATCH), together, BATCH),
        "model_id": model.model_id,
        "what": "a video of 8 frames, RoboReward's question, asked alone",
        "many": f"{BATCH} questions under way at once",
        "bare": "the same server asked for one word of text",
        "more": {"asked": len(silent), "abstained": sum(map(bool, silent))},
    }


MEASURES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "robot": lambda job: robot(job, "onnxruntime"),
    "robot-tensorrt": lambda job: robot(job, "tensorrt"),
    "edge": edge,
    "edge-torch": edge_torch,
    "vlm": vlm,
    "remote": lambda job: remote(job, False),
    "remote-vlm": lambda job: remote(job, True),
    "endpoint": endpoint,
}


def main() -> None:
    """One JSON line; a backend that can't be had is a row that says why."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    start_mb, _ = resident_mb()
    try:
        found = MEASURES[job.backend](job)
    except EntracteError as error:
        row = Row(job.backend, str(error))
    else:
        row = Row(job.backend, start_mb=start_mb, peak_mb=resident_mb()[1], **found)
    print(msgspec.json.encode(row).decode())


if __name__ == "__main__":
    main()
