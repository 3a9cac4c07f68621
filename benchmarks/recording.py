"""What recording costs: `python -m benchmarks.recording` prints the tables of docs/results/recording.md.

Codecs on one thread, interleaved, on the same pictures; then the recorder's own process, fed in real
time, against the way without streaming (log the episode raw, convert it at its end).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import psutil
from av.video.stream import VideoStream

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.episode_log import EpisodeLogWriter
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from contracts.images import encode_depth
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart, Step
from contracts.specs import ActionSpec, CameraSpec, ObservationSpec
from runtime.board import Board
from runtime.config import load_config
from runtime.processes.supervisor import make_run
from runtime.ring import Ring
from runtime.run import Run, RunPlan

HEIGHT, WIDTH, RATE_HZ = 480, 640, 30
CAMERAS = ("front", "wrist")
JOINTS = tuple(f"joint_{n}.pos" for n in range(6))
_PATIENCE_S = 120.0
CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    *(
        ("libx264", {"preset": preset, "crf": crf, "g": "2", "bf": "0"})
        for preset, crf in (
            ("ultrafast", "18"),
            ("ultrafast", "23"),
            ("superfast", "18"),
            ("veryfast", "18"),
        )
    ),
    *(
        ("libsvtav1", {"preset": preset, "crf": "30", "g": "2", "svtav1-params": "lp=1"})
        for preset in ("8", "10", "12")
    ),
)


def colour(index: int, seed: int = 0) -> np.ndarray:
    """uint8[H, W, 3]: a textured table that stands still, a thing that moves, a sensor's noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((16, 16, 1), np.uint8)).astype(np.int16)
    at = 4 * index % (WIDTH - 120)
    picture[200:300, at : at + 120] = (220, 60, 40)
    noise = np.random.default_rng(index).normal(0, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def depth(index: int, seed: int = 0) -> np.ndarray:
    """uint16[H, W]: a plane with a millimetre or two of noise and the holes of a stereo camera."""
    rng = np.random.default_rng((seed, index))
    plane = np.linspace(500, 900, HEIGHT)[:, None] + rng.normal(0, 1.5, (HEIGHT, WIDTH))
    plane[rng.random((HEIGHT, WIDTH)) < 0.02] = 0
    return plane.astype(np.uint16)


def _encode(
    codec: str, options: dict[str, str], pictures: Sequence[np.ndarray], path: Path
) -> tuple[float, float, float, float]:
    """(ms a picture, ms at the end, kB a picture, PSNR in dB) of one file."""
    began_s = time.perf_counter()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=RATE_HZ, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE_HZ)
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        end_s = time.perf_counter()
        container.mux(stream.encode(None))
    done_s = time.perf_counter()
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    error = np.mean(
        [np.square(a.astype(float) - b).mean() for a, b in zip(pictures, shown, strict=True)]
    )
    count = len(pictures)
    size = path.stat().st_size / count / 1e3
    psnr = 10 * np.log10(255**2 / error)
    return (end_s - began_s) / count * 1e3, (done_s - end_s) * 1e3, size, float(psnr)


def codecs(rounds: int, count: int) -> Iterator[str]:
    """Rows of the first table: medians over the rounds."""
    pictures = [colour(index) for index in range(count)]
    found: dict[int, list[tuple[float, float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for number, (codec, options) in enumerate(CODECS):
                row = _encode(codec, options, pictures, Path(folder) / "x.mp4")
                found.setdefault(number, []).append(row)
    yield "| codec | ms a picture | ms at the end | kB a picture | PSNR dB |\n|---|---|---|---|---|"
    for number, (codec, options) in enumerate(CODECS):
        ms, end_ms, size, psnr = (
            statistics.median(values) for values in zip(*found[number], strict=True)
        )
        name = f"{codec} {options['preset']}, crf {options['crf']}"
        yield f"| {name} | {ms:.1f} | {end_ms:.0f} | {size:.1f} | {psnr:.1f} |"
    began_s = time.perf_counter()
    sizes = [len(encode_depth(depth(index))) for index in range(20)]
    made_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    for index in range(20):
        depth(index)
    each_ms = (made_s - (time.perf_counter() - began_s)) / 20 * 1e3
    yield f"\nDepth, lossless: {each_ms:.1f} ms and {statistics.mean(sizes) / 1e3:.0f} kB a picture."


def session() -> SessionStart:
    cameras = tuple(CameraSpec(name, WIDTH, HEIGHT, RATE_HZ) for name in CAMERAS)
    units = ("deg",) * 6
    action = ActionSpec(
        JOINTS, units, (-100.0,) * 6, (100.0,) * 6, (200.0,) * 6, (2000.0,) * 6, float(RATE_HZ)
    )
    return SessionStart(
        "bench",
        "s",
        ObservationSpec(cameras, JOINTS, units),
        action,
        "raw",
        "raw",
        "",
        "",
        "",
        RATE_HZ,
    )


def packet(index: int, pool: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[bytes | memoryview]:
    """One step with both cameras' pictures."""
    now_s = index / RATE_HZ
    times = dict.fromkeys(CAMERAS, now_s)
    message = Step(
        index,
        now_s,
        times,
        times,
        now_s,
        now_s,
        now_s,
        0.0,
        (0.0,) * 6,
        (0.0,) * 6,
        (0.0,) * 6,
        0,
        0,
        0,
        0,
        0,
    )
    buffers = []
    for number, name in enumerate(CAMERAS):
        rgb, far = pool[(index + 7 * number) % len(pool)]
        buffers += [wire.raw(f"{name}.colour", rgb), wire.raw(f"{name}.depth", far)]
    return wire.pack(message, buffers)


def _start(seq: int) -> EpisodeStart:
    return EpisodeStart("bench", "s", seq, "open the drawer", "t", "record", 0, "", 0, "", -1, 0.0)


def streamed(folder: Path, lengths_s: Sequence[float]) -> Iterator[dict[str, float]]:
    """Each episode's end to its place in the data set, by the real process in real time."""
    pool = [(colour(i), depth(i)) for i in range(60)]
    overrides = ["link.enabled=false", "pace=realtime", f"loop.rate_hz={RATE_HZ}"]
    overrides += [f"episode.max_s={max(lengths_s)}", "recording.min_free_mib=0"]
    for name in CAMERAS:
        overrides += [f"cameras.{name}.width={WIDTH}", f"cameras.{name}.height={HEIGHT}"]
    plan = {"purpose": "record", "driver": "expert", "sink": "dataset"}
    plan = msgspec.convert({**plan, "output": str(folder / "streamed")}, RunPlan)
    run: Run = make_run(load_config(None, overrides), plan, folder / "run")
    board, ring = Board.create(run.board_path), Ring.create(run.ring_path, run.ring_bytes())
    command = [sys.executable, "-m", "runtime.recording.recorder", "--run-dir", run.run_dir]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _push(ring, wire.pack(session()), process)
        for seq, length_s in enumerate(lengths_s):
            yield _episode(board, ring, process, pool, seq, length_s)
    finally:
        process.terminate()
        process.wait()
        board.close()
        ring.close()
        shutil.rmtree(run.shm_dir, ignore_errors=True)


def _episode(
    board: Board,
    ring: Ring,
    recorder: subprocess.Popen[bytes],
    pool: Sequence[tuple[np.ndarray, np.ndarray]],
    seq: int,
    length_s: float,
) -> dict[str, float]:
    steps, dropped, process = round(length_s * RATE_HZ), 0, psutil.Process(recorder.pid)
    _push(ring, wire.pack(_start(seq)), recorder)
    cpu_s, began_s, rss, queue = sum(process.cpu_times()[:2]), time.monotonic(), 0, 0
    for index in range(steps):
        time.sleep(max(0.0, began_s + index / RATE_HZ - time.monotonic()))
        dropped += not ring.try_push(packet(index, pool))
        if index % RATE_HZ == 0:
            rss = max(rss, process.memory_info().rss)
        queue = max(queue, board.recorder_queue)
    end_s = time.monotonic()
    _push(ring, wire.pack(EpisodeEnd(seq, steps, "completed", True)), recorder)
    _until(lambda: board.recorder_kept > seq, recorder)
    done_s = time.monotonic()
    return {
        "length_s": length_s,
        "end_s": done_s - end_s,
        "cpu": (sum(process.cpu_times()[:2]) - cpu_s) / (done_s - began_s),
        "rss_mb": rss / 1e6,
        "queue": queue,
        "lost": dropped,
    }


def converted(folder: Path, length_s: float) -> tuple[float, float]:
    """(seconds from the end of the episode to the data set, MB on disk meanwhile) without streaming."""
    pool = [(colour(i), depth(i)) for i in range(60)]
    log = EpisodeLogWriter(folder / f"{length_s:g}.elog")
    log.append(wire.pack(session()))
    log.append(wire.pack(_start(0)))
    for index in range(round(length_s * RATE_HZ)):
        log.append(packet(index, pool))
    log.append(wire.pack(EpisodeEnd(0, round(length_s * RATE_HZ), "completed", True)))
    began_s = time.monotonic()
    file = log.finish()
    episode = read_episode(file.path)
    with create_dataset(folder / f"converted-{length_s:g}", episode) as writer:
        append(writer, episode)
    took_s = time.monotonic() - began_s
    file.path.unlink()
    return took_s, file.nbytes / 1e6


def _push(ring: Ring, parts: list[bytes | memoryview], recorder: subprocess.Popen[bytes]) -> None:
    _until(lambda: ring.try_push(parts), recorder)


def _until(done: Callable[[], bool], recorder: subprocess.Popen[bytes]) -> None:
    """Raises `EntracteError` when the recorder has ended, or is not done in `_PATIENCE_S`."""
    give_up_s = time.monotonic() + _PATIENCE_S
    while not done():
        if recorder.poll() is not None or time.monotonic() > give_up_s:
            raise EntracteError("the recorder did not store the episode", found=recorder.poll())
        time.sleep(0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=90)
    parser.add_argument("--lengths", type=float, nargs="+", default=[5.0, 20.0, 60.0])
    parser.add_argument("--convert", type=float, nargs="*", default=[5.0, 20.0])
    parser.add_argument("--folder", type=Path, help="disk to record to (default: temporary files)")
    given = parser.parse_args()
    for row in codecs(given.rounds, given.pictures) if given.rounds else ():
        print(row, flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        print("\n| episode | end to stored | cores used | memory | most queued | lost |")
        print("|---|---|---|---|---|---|")
        for one in streamed(Path(name), given.lengths):
            print(
                f"| {one['length_s']:g} s | {one['end_s']:.2f} s | {one['cpu']:.2f} | "
                f"{one['rss_mb']:.0f} MB | {one['queue']:.0f} | {one['lost']:.0f} |",
                flush=True,
            )
        for length_s in given.convert:
            took_s, size = converted(Path(name), length_s)
            print(
                f"\nWithout streaming, {length_s:g} s: {took_s:.1f} s at the end, log {size:.0f} MB"
            )
    print(json.dumps({"cpus": os.cpu_count(), "av": av.__version__}))


if __name__ == "__main__":
    main()
