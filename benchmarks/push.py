"""From publishing refined weights to the acting head: bytes, seconds, and how long the robot stands idle.

Beside it in the same run: new sessions from whole ONNX files, and LeRobot's learner pushing the same
tensors to its actor. One machine, loopback, one clock.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.big_package import full_onnx, make_big_package
from benchmarks.machine import in_words, machine
from benchmarks.push_ends import RobotEnd, TrainerEnd, releases_from
from benchmarks.push_peer import PeerPush, measure_peer
from benchmarks.relay import Relay
from contracts.errors import EntracteError
from contracts.files.packages import Package, load_package, read_safetensors
from contracts.package import check_tensors
from runtime.engines import EngineOptions, survey
from runtime.engines.binding import require_onnxruntime
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.publisher import PUBLIC_KEY_FILE, Publisher

Arrays = dict[str, np.ndarray]
STEP = 1e-3
"""Where no real releases are given: each weight is multiplied by 1 + STEP times a standard normal number."""


class Row(msgspec.Struct, frozen=True):
    """Milliseconds, medians. `publish`: number, sign, encode and write the release; `verified` and `armed`:
    from the offer until every byte is what was signed, and until it is staged on the robot's disk; `ready`: a
    standby engine made and all checks, the replay included, where they are made beside an episode; `idle`:
    the robot can't act, from the boundary to the new weights acting; `longest`: of all pushes, from the
    refiner's arrays to acting. Bytes of one push: `payload` of weights, `wire` of all that crossed TCP both
    ways."""

    way: str
    absent: str = ""
    publish: float = 0.0
    verified: float = 0.0
    armed: float = 0.0
    ready: float = 0.0
    idle: float = 0.0
    whole: float = 0.0
    longest: float = 0.0
    payload: float = 0.0
    wire: float = 0.0


class Found(msgspec.Struct, frozen=True):
    """Of one package. `rebuild_ms`: sessions from the whole policy as ONNX files, and their first runs;
    `rebuild_bytes`: those files. `changes`: where the pushed weights come from. `peer`: None: left out."""

    package: str
    weights_bytes: int
    tensors: int
    pushes: int
    changes: str
    rebuild_ms: float
    rebuild_bytes: int
    rows: tuple[Row, ...]
    peer: PeerPush | None
    machine: dict[str, Any]


def measure(
    folder: Path | None,
    pushes: int = 10,
    *,
    nbytes: int = 140_000_000,
    releases: Path | None = None,
    peer: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """`pushes` releases each way. `folder`: the package, None: a generated one of `nbytes`. `releases`:
    folder with those of a real refinement of it. `peer`: the Python for LeRobot's end, None: leave it out."""
    with tempfile.TemporaryDirectory(prefix="entracte-push-") as scratch:
        root = Path(scratch)
        if folder is None:
            report(f"making a package of {nbytes / 1e6:.0f} MB")
            make_big_package(root / "package", nbytes)
        package = load_package((folder or root / "package").resolve())
        series, changes = _series(package, pushes + 2, releases)
        rows = list(_rows(package, series, root, report))
        report("building sessions from whole ONNX files")
        rebuild_ms, rebuild_bytes = _rebuild(package, root / "whole", pushes)
        found = None
        if peer is not None:
            report("pushing as LeRobot's learner does")
            found = measure_peer(peer, series, root / "peer")
        return Found(
            package=package.package_id if folder else f"random weights, {nbytes / 1e6:.0f} MB",
            weights_bytes=sum(t.nbytes for t in series[0].values()),
            tensors=len(series[0]),
            pushes=len(series) - 2,
            changes=changes,
            rebuild_ms=rebuild_ms,
            rebuild_bytes=rebuild_bytes,
            rows=tuple(rows),
            peer=found,
            machine=machine(),
        )


def _series(package: Package, count: int, releases: Path | None) -> tuple[Sequence[Arrays], str]:
    """The package's own weights and those of `count` - 1 consecutive releases, and what they are."""
    own = package.refinable_weights()
    if releases is None:
        return _Steps(own, count), f"steps of {STEP:g} of each weight"
    series = [own]
    for path in sorted(releases.glob("*/weights.safetensors"))[: count - 1]:
        tensors = read_safetensors(path.read_bytes(), str(path))
        problems = check_tensors(package.manifest.refinable, tensors)
        if problems:
            raise EntracteError(f"{path} is of another package", found=problems[0])
        series.append(tensors)
    if len(series) < 3:
        raise EntracteError("too few releases", expected="2", found=len(series) - 1)
    return series, f"{len(series) - 1} consecutive releases of a real refinement"


class _Steps(Sequence[Arrays]):
    """Weights that wander, made when they are asked for: large ones don't fit into memory all at once."""

    def __init__(self, own: Arrays, count: int) -> None:
        self._own, self._count = own, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < self._count:
            raise IndexError(at)
        tensors = {name: tensor.copy() for name, tensor in self._own.items()}
        for step in range(at):
            numbers = np.random.default_rng(step)
            for tensor in tensors.values():
                steps = numbers.standard_normal(tensor.shape, np.float32)
                np.multiply(tensor, 1 + np.float32(STEP) * steps, out=tensor)
        return tensors


def _rows(
    package: Package, series: Sequence[Arrays], root: Path, report: Callable[[str], None]
) -> Iterator[Row]:
    plain, smaller = EncodingOptions(enabled=False), EncodingOptions()
    refit = EngineOptions(kind="tensorrt")
    for name, options, encodings, ahead in (
        ("as it is, made ready ahead", EngineOptions(), plain, True),
        ("delta, made ready ahead", EngineOptions(), smaller, True),
        ("delta, all at the boundary", EngineOptions(), smaller, False),
        ("tensorrt (refit), delta, all at the boundary", refit, smaller, False),
    ):
        report(f"pushing to {name}")
        try:
            survey.require(options)
        except EntracteError as error:
            yield Row(name, absent=str(error))
            continue
        folder = root / name.replace(" ", "-")
        row = _push(name, package, options, encodings, series, folder, ahead)
        if not ahead:  # the bytes are those of the row before
            yield row
            continue
        report("counting its bytes")
        around = _around(package, options, encodings, series, folder / "counted")
        yield msgspec.structs.replace(row, wire=row.payload + around)


def _push(
    name: str,
    package: Package,
    options: EngineOptions,
    encodings: EncodingOptions,
    series: Sequence[Arrays],
    root: Path,
    ahead: bool,
) -> Row:
    publisher = Publisher(
        root / "trainer" / "releases", package.manifest, own=package.folder, encodings=encodings
    )
    spent: list[tuple[float, float, float, float, float]] = []
    payload: list[int] = []
    with (
        TrainerEnd(publisher) as trainer,
        RobotEnd(root / "robot", package, releases_from(trainer.address), options) as robot,
    ):
        robot.take_key(root / "trainer" / PUBLIC_KEY_FILE)
        for number in range(1, len(series)):
            update = Update(series[number], 1, {})
            sent = publisher.bytes_sent
            begin_s = time.monotonic()
            seq = publisher.prepare(update, number).publish_seq
            trainer.offer(publisher.commit(seq))
            offered_s = time.monotonic()
            robot.wait_until_armed(seq)
            armed_s = time.monotonic()
            ready_s = robot.make_ready() if ahead else 0.0
            idle_s, verified_s = robot.swap(number)
            spent.append((offered_s - begin_s, armed_s - offered_s, ready_s, idle_s, verified_s))
            payload.append(publisher.bytes_sent - sent)
    publish, armed, ready, idle, verified = (
        [1e3 * each[i] for each in spent[1:]]
        for i in range(5)  # the first waits for sockets to connect
    )
    whole = [sum(each) for each in zip(publish, armed, ready, idle, strict=True)]
    return Row(
        way=name,
        publish=statistics.median(publish),
        verified=statistics.median(verified),
        armed=statistics.median(armed),
        ready=statistics.median(ready),
        idle=statistics.median(idle),
        whole=statistics.median(whole),
        longest=max(whole),
        payload=statistics.median(payload[1:]),
    )


def _around(
    package: Package,
    options: EngineOptions,
    encodings: EncodingOptions,
    series: Sequence[Arrays],
    root: Path,
) -> float:
    """Bytes over TCP of one push besides the weights, both ways, from the offer to armed; not of the first
    one, in which the ends greet each other."""
    publisher = Publisher(
        root / "trainer" / "releases", package.manifest, own=package.folder, encodings=encodings
    )
    found: list[int] = []
    with TrainerEnd(publisher) as trainer:
        port = int(trainer.address.rpartition(":")[2])
        with (
            Relay(("127.0.0.1", port)) as relay,
            RobotEnd(
                root / "robot", package, releases_from(f"tcp://127.0.0.1:{relay.port}"), options
            ) as robot,
        ):
            robot.take_key(root / "trainer" / PUBLIC_KEY_FILE)
            for number in range(1, min(len(series), 4)):
                seq = publisher.prepare(Update(series[number], 1, {}), number).publish_seq
                before = relay.passed - publisher.bytes_sent
                trainer.offer(publisher.commit(seq))
                robot.wait_until_armed(seq)
                found.append(relay.passed - publisher.bytes_sent - before)
                robot.swap(number)
    return float(statistics.median(found[1:]))


def _rebuild(package: Package, folder: Path, times: int) -> tuple[float, int]:
    """Milliseconds from the whole policy as ONNX files on disk to the sessions' first answers, median; and
    the files' bytes. What a robot does that gets its policy as a whole."""
    ort = require_onnxruntime()
    folder.mkdir()
    files = {name: folder / f"{name}.onnx" for name in package.graphs}
    nbytes = sum(full_onnx(package, name, path) for name, path in files.items())
    spent = []
    for _ in range(max(times, 3)):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        begin_s = time.monotonic()
        for name, path in files.items():
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            session.run(None, dict(package.golden[name][0].inputs))
        spent.append(1e3 * (time.monotonic() - begin_s))
    return statistics.median(spent), nbytes


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| way | publish (ms) | offer to verified | to armed | made ready | robot idle | whole | longest "
        "| weights (MB) | on the wire (MB) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        if row.absent:
            lines.append(f"| {row.way} | absent: {row.absent} | | | | | | | | |")
            continue
        numbers = (
            *(row.publish, row.verified, row.armed, row.ready),
            *(row.idle, row.whole, row.longest),
        )
        cells = " | ".join(f"{number:.1f}" for number in numbers)
        lines.append(f"| {row.way} | {cells} | {row.payload / 1e6:.3f} | {_wire(row)} |")
    rebuilt = f"{found.rebuild_bytes / 1e6:.3f}"
    lines.append(
        f"| sessions from the whole policy as ONNX | | | | | {found.rebuild_ms:.1f} | | | {rebuilt} | |"
    )
    peer = found.peer
    if peer is not None:
        theirs = (peer.arrived, 0.0, peer.idle, peer.whole, peer.longest)
        cells = " | ".join(f"{number:.1f}" for number in theirs)
        lines.append(
            f"| torch.save over gRPC ({peer.kind}) | {peer.publish:.1f} | | {cells} | "
            f"{peer.payload / 1e6:.3f} | {peer.wire / 1e6:.3f} |"
        )
    lines += ["", _in_words(found)]
    return "\n".join(lines)


def _in_words(found: Found) -> str:
    here = [row for row in found.rows if not row.absent]
    said = [
        f"{found.package}: {found.tensors} tensors, {found.weights_bytes / 1e6:.3f} MB; medians of "
        f"{found.pushes} pushes over loopback; weights: {found.changes}.",
    ]
    for row in here:
        share = row.payload / found.weights_bytes
        sentence = f"{row.way}: {_idle_in_words(row, found)}, {share:.3f} of the weights' bytes"
        if found.peer and row.wire:
            sentence += f", {row.wire / found.peer.wire:.4f} of the peer's on the wire"
        said.append(f"{sentence}.")
    said.append(f"Machine: {in_words(found.machine)}.")
    return " ".join(said)


def _idle_in_words(row: Row, found: Found) -> str:
    """Either way: what is not made ready ahead may take longer than building anew."""
    shorter = found.rebuild_ms / max(row.idle, 1e-9)
    times = f"{shorter:.1f} times shorter" if shorter >= 1 else f"{1 / shorter:.1f} times LONGER"
    return f"idle {times} than building the sessions takes"


def _wire(row: Row) -> str:
    return f"{row.wire / 1e6:.3f}" if row.wire else ""
