"""Releases: what is signed, the weights in it, and the conversation that fetches them."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts import encodings, wire
from contracts.errors import ReleaseRejected
from contracts.files import mapped
from contracts.files.packages import read_safetensors, safetensors_bytes
from contracts.key_rotation import hex_of
from contracts.messages import (
    EpisodeStored,
    EpisodeWant,
    Goodbye,
    Hello,
    OutcomeStored,
    ReleaseChunk,
    ReleaseEncoding,
    ReleaseNone,
    ReleaseOffer,
    Welcome,
)
from contracts.package import (
    PackageManifest,
    Provenance,
    TensorSpec,
    check_tensors,
    package_id,
    weights_id,
)
from contracts.release import Expected, ReleaseManifest, sign, verify, verify_weights
from contracts.specs import CameraSpec, ObservationSpec, spec_hash
from contracts.weights import read_tensors
from runtime.link.handshake import Handshake
from runtime.link.releases import ReleaseFetcher
from runtime.link.spool import Spool
from runtime.link.uploads import Uploader
from runtime.weights.slots import SlotStore
from tests.faults.fuzz.mutation import (
    Rng,
    frame,
    mutate_bytes,
    mutate_compressed,
    mutate_tree,
    of_tree,
)
from tests.faults.fuzz.target import Feed, Target, plain
from tests.faults.fuzz.wire_targets import conversation, converse, each

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PACKAGE_ID, ROBOT = "0123456789abcdef", "bench-0"
EXPECTED = Expected("policy", PACKAGE_ID, ROBOT, newest_seq=2)


@functools.cache
def weights() -> bytes:
    """A safetensors file of a few tensors."""
    rng = np.random.default_rng(1)
    return safetensors_bytes(
        {
            "head/mix": rng.normal(size=(8, 6)).astype(np.float32),
            "head/bias": np.arange(6, dtype=np.float32),
            "head/gate": np.array([1, 0, 1], bool),
            "head/none": np.empty((0, 4), np.float16),
        }
    )


@functools.cache
def refinable() -> tuple[TensorSpec, ...]:
    found = read_tensors(weights())
    return tuple(TensorSpec(n, str(t.dtype), t.shape) for n, t in sorted(found.items()))


def manifest(seq: int = 3) -> ReleaseManifest:
    data = weights()
    return msgspec.convert(
        {
            "target": "policy", "package_id": PACKAGE_ID, "publish_seq": seq, "parent": 0, "iteration": 1,
            "weights_id": weights_id(read_tensors(data)), "sha256": hashlib.sha256(data).hexdigest(),
            "nbytes": len(data), "tensors": msgspec.to_builtins(refinable()), "samples": 3,
            "robot_ids": [ROBOT], "calibration_id": "", "created_unix_s": 0.0, "expires_unix_s": 1e9,
            "trainer": "t", "settings": {"temperature": 0.5},
        },
        ReleaseManifest,
    )  # fmt: skip


def decode_manifest(data: bytes) -> None:
    """Signed by the trainer's own key, so that what is behind the signature is reached; and once unsigned."""
    signature = KEY.sign(data)
    each(
        lambda: _verified(data, signature),
        lambda: _unsigned(data, signature),
    )


def _verified(data: bytes, signature: bytes) -> None:
    found = verify(data, signature, KEY.public_key(), EXPECTED, now_unix_s=1.0)
    assert found.publish_seq > 2 and found.nbytes > 0 and found.expires_unix_s >= 1.0
    assert found.package_id == PACKAGE_ID and found.target == "policy"
    assert not found.robot_ids or ROBOT in found.robot_ids
    sign(found, KEY)
    verify_weights(found, weights())


def _unsigned(data: bytes, signature: bytes) -> None:
    """Any other bytes under that signature are refused, whatever they say."""
    try:
        verify(data + b" ", signature, KEY.public_key(), EXPECTED, now_unix_s=1.0)
    except ReleaseRejected as error:
        assert error.reason == "signature"
    else:
        raise AssertionError("taken without a signature")


def mutate_safetensors(rng: Rng, data: bytes) -> bytes:
    """The header's tree in a sound frame, or bytes anywhere."""
    length = int.from_bytes(data[:8], "little")
    kind = rng.random()
    if kind < 0.6:
        try:
            tree: Any = msgspec.json.decode(data[8 : 8 + length])
            text = msgspec.json.encode(mutate_tree(rng, tree))
            return len(text).to_bytes(8, "little") + text + data[8 + length :]
        except (ValueError, TypeError, OverflowError, RecursionError):
            pass
    if kind < 0.8:
        text = mutate_bytes(rng, data[8 : 8 + min(length, len(data))])
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    return mutate_bytes(rng, data)


@contextmanager
def _reading_weights(folder: Path) -> Iterator[Feed]:
    path = folder / "weights.safetensors"

    def feed(data: bytes) -> None:
        each(
            lambda: _tensors(data),
            lambda: read_safetensors(data, "weights"),
            lambda: _mapped(path, data),
        )

    yield feed


def _tensors(data: bytes) -> None:
    found = read_tensors(data)
    assert sum(tensor.nbytes for tensor in found.values()) <= len(data)
    if not check_tensors(refinable(), found):
        assert all(np.isfinite(tensor).all() for tensor in found.values())


def _mapped(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for tensor in mapped.map_safetensors(path, hashlib.sha256(data).hexdigest()).values():
        tensor.nbytes, tensor.sum()


# Encoded weights. An input: its kind (u8: 0 alone, 1 delta), the size that was signed (u32), the bytes.

BASE = bytes(range(256)) * 40


def _encoded_seeds() -> list[bytes]:
    data = bytearray(BASE)
    data[100:200] = bytes(100)
    head = len(data).to_bytes(4, "little")
    alone = b"".join(encodings.encode(bytes(data)))
    delta = b"".join(encodings.encode(bytes(data), BASE))
    return [b"\0" + head + alone, b"\1" + head + delta]


def decode_encoded(data: bytes) -> None:
    """Never more than was signed, a block at a time."""
    nbytes = min(int.from_bytes(data[1:5], "little"), 64 << 20)
    base = BASE if data[:1] == b"\1" else None
    seen = 0
    for block in encodings.decode(memoryview(data)[5:], nbytes, base):
        assert 0 < len(block) <= encodings.BLOCK
        seen += len(block)
    assert seen == nbytes


def mutate_encoded(rng: Rng, data: bytes) -> bytes:
    """Half of the time the block inside is unfolded, changed and folded again, its length right."""
    if rng.random() < 0.5:
        frame = mutate_compressed(rng, data[9:])
        return data[:5] + len(frame).to_bytes(4, "little") + frame
    return mutate_bytes(rng, data)


# The robot's end: a conversation with the trainer about releases and episodes.


@functools.cache
def small_package() -> PackageManifest:
    return PackageManifest(
        format_version=1, model="policy", architecture="tiny",
        observation=ObservationSpec((CameraSpec("front", 32, 24, 10.0),), ("a",), ("deg",)), action=None,
        graphs=(), weights_file="w", weights_sha256="", golden_file="g", golden_sha256="",
        refinable=refinable(), image_width=32, image_height=24, cameras=("front",), vocabulary=("open",),
        instruction_length=1, opset=17, exporter="t",
        provenance=Provenance("t", 0, "none", "none", 0.0, {}),
    )  # fmt: skip


def _conversation_seeds() -> list[bytes]:
    """An offer of the release for itself and encoded, its chunks, and answers about episodes and outcomes."""
    data, package = weights(), small_package()
    found = msgspec.structs.replace(
        manifest(), package_id=package_id(package), observation=spec_hash(package.observation)
    )
    text, signature = sign(found, KEY)
    packed = b"".join(encodings.encode(data))
    way = ReleaseEncoding(encodings.ZSTD, "", len(packed), encodings.sha256_hex(packed))
    first = [wire.pack(ReleaseOffer("policy", text, signature, (way,)))]
    first += _chunks(packed, encodings.ZSTD)
    second = [wire.pack(ReleaseOffer("policy", text, signature)), *_chunks(data, "")]
    others: list[Any] = [ReleaseNone("policy", 3), EpisodeWant("s-1", 3, 0, 100)]
    others += [EpisodeStored("s-1", 3), OutcomeStored("s-1.1"), Welcome("t", wire.VERSION)]
    third = [wire.pack(message) for message in others]
    return [frame([frame(parts) for parts in talk]) for talk in (first, second, third)]


def _chunks(data: bytes, encoding: str) -> list[list[bytes | memoryview]]:
    parts = [(at, np.frombuffer(data[at : at + 128], np.uint8)) for at in range(0, len(data), 128)]
    return [
        wire.pack(ReleaseChunk("policy", 3, at, encoding), [wire.raw("data", part)])
        for at, part in parts
    ]


@contextmanager
def _robot_listening(folder: Path) -> Iterator[Feed]:
    """Fetcher, uploader, outcomes and handshake as the link has them, new for every conversation. Whatever
    was said, slots hold only what was signed."""
    (folder / "trainer.pub").write_text(hex_of(KEY.public_key()))
    kept = Spool(folder / "spool", 1 << 30)
    log = kept.begin("s-1", 3)
    log.append([b"episode"])
    item = kept.finished("s-1", 3, log.finish())

    def feed(data: bytes) -> None:
        shutil.rmtree(folder / "slots", ignore_errors=True)
        slots = SlotStore(folder / "slots", package_id(small_package()))
        fetcher = ReleaseFetcher(
            "policy", small_package(), slots, robot_id=ROBOT, session_id="s-1",
            key_path=folder / "trainer.pub", send=_sendable, report=lambda outcome: None,
            on_staged=lambda seq: None, unix_clock=lambda: 1.0,
        )  # fmt: skip
        kept._waiting = {("s-1", 3): item}
        item.log.path.write_bytes(b"episode")
        uploader = Uploader(kept, ROBOT, _sendable)
        hello = Handshake(Hello(ROBOT, "s-1", wire.VERSIONS), _sendable)

        def handle(found: wire.Packet) -> None:
            message = found.message
            if isinstance(message, ReleaseOffer):
                fetcher.on_offer(message)
            elif isinstance(message, ReleaseChunk):
                fetcher.on_chunk(message, found)
            elif isinstance(message, EpisodeWant):
                uploader.on_want(message, 1.0)
            elif isinstance(message, EpisodeStored):
                uploader.on_stored(message, 1.0)
            elif isinstance(message, Welcome):
                hello.on_welcome(message)
            elif isinstance(message, Goodbye):
                hello.on_goodbye(message, 1.0)
            fetcher.tick(1e9)

        converse(data, handle)
        for name, slot in slots.state().slots.items():
            if slot.state == "staged":
                assert slot.manifest is not None
                assert slots.weights_path(name).read_bytes() == weights()

    yield feed


def _sendable(parts: list[bytes | memoryview]) -> bool:
    wire.unpack([bytes(part) for part in parts])
    return True


def targets() -> list[Target]:
    manifests = of_tree(msgspec.json.decode, msgspec.json.encode)
    first = [msgspec.json.encode(manifest())]
    return [
        Target("manifest", lambda: first, manifests, plain(decode_manifest), 12),
        Target("encodings", _encoded_seeds, mutate_encoded, plain(decode_encoded), 8, 128),
        Target("robot", _conversation_seeds, conversation, _robot_listening, 1),
        Target("safetensors", lambda: [weights()], mutate_safetensors, _reading_weights, 8),
    ]
