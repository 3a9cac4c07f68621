"""What lies on disk and may be damaged, or written by another release: logs, spool, slots, the store."""

from __future__ import annotations

import functools
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np

from contracts import images, wire
from contracts.errors import EntracteError, WireError
from contracts.files.episode_log import MAGIC, PART_SUFFIX, EpisodeLogReader, EpisodeLogWriter
from contracts.files.log_to_dataset import read_episode
from contracts.messages import EpisodeEnd, EpisodeStart, ReleaseOutcome, SessionStart, Step
from contracts.specs import ActionSpec, CameraSpec, ObservationSpec
from runtime.link.episodes import Recorder
from runtime.link.outcomes import OutcomeSpool
from runtime.link.spool import Spool
from runtime.weights.slots import SlotStore
from tests.faults.fuzz.examples import example
from tests.faults.fuzz.mutation import Rng, frame, mutate_bytes, of_tree, unframe
from tests.faults.fuzz.release_targets import PACKAGE_ID, manifest
from tests.faults.fuzz.target import Feed, Target, memory_folder
from tests.faults.fuzz.wire_targets import each, packet
from trainer.interfaces import EpisodeKey
from trainer.metrics import read_metrics
from trainer.store import IndexEntry, Scores, Store

JOINTS, UNITS = ("a.pos", "gripper.pos"), ("deg", "percent")
ROBOT, SESSION = "bench-0", "s-1"


def episode_packets(steps: int = 3, seq: int = 4) -> list[list[bytes | memoryview]]:
    """Session, start, steps with pictures, end."""
    camera = CameraSpec("front", 16, 16, 10.0)
    session = SessionStart(
        *(ROBOT, SESSION, ObservationSpec((camera,), JOINTS, UNITS)),
        ActionSpec(JOINTS, UNITS, (-90.0, 0.0), (90.0, 100.0), (9.0,) * 2, (9.0,) * 2, 10.0),
        *(images.JPEG, images.DEPTH_VZS_ZSTD, "0" * 16, "1", "asap"),
    )
    start = msgspec.structs.replace(
        example(EpisodeStart), robot_id=ROBOT, session_id=SESSION, episode_seq=seq, purpose="refine"
    )
    packets = [wire.pack(session), wire.pack(start)]
    rgb, depth = np.full((16, 16, 3), 90, np.uint8), np.full((16, 16), 700, np.uint16)
    for index in range(steps):
        step = msgspec.structs.replace(
            example(Step),
            **{"index": index, "tick_s": index / 10, "state": (0.0, 1.0), "action": (0.5, 2.0)},
            **{
                "requested": (0.5, 3.0),
                "captured_s": {"front": index / 10},
                "received_s": {"front": 1.0},
            },
        )
        buffers = [
            wire.encoded("front.colour", images.JPEG, images.encode_jpeg(rgb), rgb.shape, "uint8"),
            wire.encoded(
                *("front.depth", images.DEPTH_VZS_ZSTD, images.encode_depth(depth)),
                depth.shape,
                "uint16",
            ),
        ]
        packets.append(wire.pack(step, buffers))
    return [*packets, wire.pack(EpisodeEnd(seq, steps, "time_limit"))]


def log_bytes(packets: list[bytes]) -> bytes:
    """A log of framed packets, every checksum right."""
    found = bytearray(MAGIC)
    for body in packets:
        found += len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    return bytes(found)


def records(data: bytes) -> list[bytes]:
    """Bodies of the records, as far as they are there."""
    found, at = [], len(MAGIC)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def mutate_log(rng: Rng, data: bytes) -> bytes:
    """A record changed, moved, doubled or left out with the checksums made right again; or bytes anywhere."""
    bodies = records(data)
    if not bodies or rng.random() < 0.25:
        return mutate_bytes(rng, data)
    at, kind = rng.randrange(len(bodies)), rng.randrange(8)
    if kind < 5:
        bodies[at] = packet(rng, bodies[at])
    elif kind == 5:
        del bodies[at]
    elif kind == 6:
        bodies.insert(rng.randrange(len(bodies)), bodies[at])
    else:
        other = rng.randrange(len(bodies))
        bodies[at], bodies[other] = bodies[other], bodies[at]
    return log_bytes(bodies)


@functools.cache
def _log() -> bytes:
    return log_bytes([frame(parts) for parts in episode_packets()])


@contextmanager
def _reading_logs(folder: Path) -> Iterator[Feed]:
    path = folder / "x.elog"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        path.with_name(path.name + PART_SUFFIX).write_bytes(data)
        each(lambda: _read(path), lambda: _resume(path))

    yield feed


def _read(path: Path) -> None:
    episode = read_episode(path)
    length = len(episode.columns["intervention"])
    assert all(len(column) == length for column in episode.columns.values())
    each(
        *(lambda c=c: episode.pictures.frames(c) for c in episode.pictures.cameras if length),
        *(lambda c=c: episode.pictures.depth(c) for c in episode.pictures.depth_cameras if length),
    )


def _resume(path: Path) -> None:
    writer = EpisodeLogWriter.resume(path)
    packets = list(EpisodeLogReader(writer.part))
    writer.append([b"one more"])
    assert list(EpisodeLogReader(writer.part)) == [*packets, [b"one more"]]
    writer.abandon()


# The robot's folder: spool, session, outcomes; as a killed link left them.


def _spool_seeds() -> list[bytes]:
    packets = episode_packets()
    whole = log_bytes([frame(parts) for parts in packets])
    cut = log_bytes([frame(parts) for parts in packets[:-1]])[:-40]
    outcome = msgspec.structs.replace(example(ReleaseOutcome), report_id="s-1.policy-3")
    return [frame([bytes(packets[0][0]), cut, bytes(wire.pack(outcome)[0]), whole])]


def _mutate_spool(rng: Rng, data: bytes) -> bytes:
    header = of_tree(msgspec.msgpack.decode, msgspec.msgpack.encode)
    return _mutate_one(rng, data, (header, mutate_log, header, mutate_log))


def _mutate_one(rng: Rng, data: bytes, ways: Sequence[Callable[[Rng, bytes], bytes]]) -> bytes:
    """One of the framed parts, each in its own way; what is no such frame as bytes."""
    parts = unframe(data)
    if len(parts) != len(ways):
        return mutate_bytes(rng, data)
    at = rng.randrange(len(ways))
    parts[at] = ways[at](rng, parts[at])
    return frame(parts)


@contextmanager
def _opening_spools(folder: Path) -> Iterator[Feed]:
    spool_folder = folder / "spool"

    def feed(data: bytes) -> None:
        session, part, outcome, whole, *_ = [*unframe(data), b"", b"", b"", b""]
        (spool_folder / "outcomes").mkdir(parents=True)
        (spool_folder / "session.wire").write_bytes(session)
        (spool_folder / f"{SESSION}_00000004.elog{PART_SUFFIX}").write_bytes(part)
        (spool_folder / f"{SESSION}_00000003.elog").write_bytes(whole)
        (spool_folder / "outcomes" / "00000000.wire").write_bytes(outcome)
        try:
            unread = _recorder(spool_folder)
            _outcomes(spool_folder)
        except EntracteError as error:
            raise AssertionError("the link can't start") from error
        finally:
            shutil.rmtree(spool_folder)
        if unread:
            raise WireError(unread)

    yield feed


def _recorder(folder: Path) -> str:
    """A link that starts must start, whatever its predecessor left; returns what it could not read."""
    spool = Spool(folder, 1 << 30)
    recorder = Recorder(spool, None, 90)
    unread = recorder.error
    for parts in episode_packets(1, seq=9):
        recorder.take(wire.unpack([bytes(part) for part in parts]))
    recorder.close()
    assert spool.find(SESSION, 9) is not None, "the next episode was not recorded"
    assert spool.find(SESSION, 3) is not None, "an episode that waits was lost"
    return unread


def _outcomes(folder: Path) -> None:
    spool = OutcomeSpool(folder / "outcomes", lambda parts: True)
    before = len(spool)
    spool.add(msgspec.structs.replace(example(ReleaseOutcome), report_id="s-2.policy-4"))
    assert len(spool) == before + 1
    spool.tick(100.0)


# Slots and the trainer's store.


@functools.cache
def _slots_seed() -> bytes:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = SlotStore(Path(folder), PACKAGE_ID)
        for seq in (1, 2, 3):
            name, _ = store.begin_fetch(manifest(seq), 0.0)
            store.partial_path(name).write_bytes(b"1234")
            store.mark_verified(name, 0.1, 4)
            store.mark_staged(name, 0.2)
            if seq < 3:
                store.begin_shadow(name)
                store.begin_probation(name)
        return (Path(folder) / "state.json").read_bytes()


@contextmanager
def _opening_slots(folder: Path) -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        (folder / "state.json").write_bytes(data)
        store = SlotStore(folder, PACKAGE_ID)
        newest = store.state().newest_seq
        store.recover()
        store.find("committed")
        store.begin_fetch(manifest(4), 0.0)
        assert store.state().newest_seq >= newest

    yield feed


def _store_seeds() -> list[bytes]:
    entry = IndexEntry(0, ROBOT, SESSION, 4, "0" * 64, "refine", 0)
    signals: list[dict[str, object]] = [
        {"step": 1, "process": 0.5, "score_distribution": [0.5, 0.5]}
    ]
    scores = Scores("model", True, "", 0.1, signals)
    index = msgspec.json.encode(entry) + b"\n"
    return [
        frame([index, msgspec.json.encode(scores), b'{"kind": "release", "unix_s": 1.0}\n', _log()])
    ]


def _mutate_store(rng: Rng, data: bytes) -> bytes:
    json = of_tree(msgspec.json.decode, lambda tree: msgspec.json.encode(tree) + b"\n")
    return _mutate_one(rng, data, (json, json, json, mutate_log))


@contextmanager
def _opening_stores(folder: Path) -> Iterator[Feed]:
    root = folder / "store"

    def feed(data: bytes) -> None:
        index, scores, metrics, log, *_ = [*unframe(data), b"", b"", b"", b""]
        key = EpisodeKey(ROBOT, SESSION, 4)
        for name in ("logs", "scores"):
            (root / name).mkdir(parents=True)
        (root / "index.jsonl").write_bytes(index)
        (root / "logs" / f"{key}.elog").write_bytes(log)
        (root / "scores" / f"{key}.json").write_bytes(scores)
        (folder / "metrics.jsonl").write_bytes(metrics)
        try:
            each(lambda: _use_store(root, key), lambda: read_metrics(folder / "metrics.jsonl"))
        finally:
            shutil.rmtree(root)

    yield feed


def _use_store(root: Path, key: EpisodeKey) -> None:
    store = Store(root)
    assert store.have(key), "an episode whose log is there was lost"
    store.load_scores(key, "model")
    for entry in store.entries:
        with suppress(KeyError):
            store.entry(entry.key)
    store.load(store.entry(key))


def targets() -> list[Target]:
    json = of_tree(msgspec.json.decode, msgspec.json.encode)
    return [
        Target("episode log", lambda: [_log()], mutate_log, _reading_logs, 6, 256),
        Target("spool", _spool_seeds, _mutate_spool, _opening_spools, 1, 256),
        Target("slots", lambda: [_slots_seed()], json, _opening_slots, 2),
        Target("store", _store_seeds, _mutate_store, _opening_stores, 1, 256),
    ]
