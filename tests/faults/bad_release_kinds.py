"""Every kind of bad release that we could think of, each with the reason that it must be refused for.

The forger holds the enrolled signing key: only what the kind says is wrong, all else is as it should be.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.encodings import delta_id, encode, sha256_hex
from contracts.files.packages import Package, safetensors_bytes
from contracts.messages import ReleaseEncoding, ReleaseOffer
from contracts.package import TensorSpec
from contracts.release import MAX_PUBLISH_SEQ, ReleaseManifest, sign
from contracts.specs import spec_hash

ROBOT, CALIBRATION, NOW_S = "arm-1", "cal-1", 1_800_000_000.0
NEVER_WHOLE = "unfinished"
"""Not refused but never complete either: the sender stops sending."""


@dataclass(frozen=True)
class Bad:
    """`served`: what the trainer sends for each encoding id ("": the weights as they are). `reasons`: what
    must be counted, in order of refusal. `rot`: the robot's own base file is cut short first."""

    kind: str
    offer: ReleaseOffer
    reasons: tuple[str, ...]
    served: Mapping[str, bytes] = field(default_factory=dict)
    rot: bool = False


class Forger:
    """Signs whatever it is asked to, for one package and robot."""

    def __init__(self, package: Package, seed: int) -> None:
        self.package, self.random = package, random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.key = Ed25519PrivateKey.generate()
        self.own = safetensors_bytes(package.refinable_weights())
        self.accepted: list[ReleaseOffer] = []

    def tensors(self) -> dict[str, np.ndarray]:
        """Sound weights, near the package's own."""
        return {
            name: (t * (1 + 1e-3 * self.numbers.standard_normal(t.shape))).astype(t.dtype)
            for name, t in self.package.refinable_weights().items()
        }

    def offer(
        self, seq: int, data: bytes, key: Ed25519PrivateKey | None = None, **changes: object
    ) -> ReleaseOffer:
        """Signed for `data`, whatever that is."""
        manifest = self.package.manifest
        assert manifest.action is not None
        whole = ReleaseManifest(
            target="policy",
            package_id=self.package.package_id,
            publish_seq=seq,
            parent=0,
            iteration=1,
            weights_id=sha256_hex(data),
            sha256=sha256_hex(data),
            nbytes=len(data),
            tensors=manifest.refinable,
            samples=3,
            robot_ids=(ROBOT, "arm-2"),
            calibration_id=CALIBRATION,
            created_unix_s=NOW_S - 60.0,
            expires_unix_s=NOW_S + 3600.0,
            trainer="t",
            observation=spec_hash(manifest.observation),
            action=spec_hash(manifest.action),
        )
        changed = msgspec.structs.replace(whole, **changes)
        return ReleaseOffer("policy", *sign(changed, key or self.key))

    def good(self, seq: int) -> tuple[ReleaseOffer, bytes]:
        data = safetensors_bytes(self.tensors())
        offer = self.offer(seq, data)
        self.accepted.append(offer)
        return offer, data

    def bad(self, seq: int) -> Bad:
        """The next one, of a kind drawn at random. `seq`: one that would be taken."""
        make = self.random.choice(KINDS)
        return make(self, seq)

    def flipped(self, data: bytes) -> bytes:
        """One to eight bits of it are others."""
        spoilt = bytearray(data)
        for at in self.random.sample(range(len(data) * 8), self.random.randint(1, 8)):
            spoilt[at // 8] ^= 1 << (at % 8)
        return bytes(spoilt)

    def encodings(self, data: bytes) -> tuple[tuple[ReleaseEncoding, bytes], ...]:
        """A delta against the package's own weights, and without a base."""
        found = []
        for name, base in ((delta_id(sha256_hex(self.own)), self.own), ("zstd", None)):
            encoded = b"".join(encode(data, base))
            at = sha256_hex(base) if base else ""
            found.append((ReleaseEncoding(name, at, len(encoded), sha256_hex(encoded)), encoded))
        return tuple(found)


Kind = Callable[[Forger, int], Bad]
KINDS: list[Kind] = []


def kind(make: Kind) -> Kind:
    KINDS.append(make)
    return make


def _signed(name: str, reason: str, **drawn: Callable[[Forger], object]) -> None:
    """A kind whose manifest says something else, rightly signed."""

    def make(forger: Forger, seq: int) -> Bad:
        changes = {field: draw(forger) for field, draw in drawn.items()}
        data = safetensors_bytes(forger.tensors())
        return Bad(name, forger.offer(seq, data, **changes), (reason,), {"": data})

    KINDS.append(make)


_signed(
    "expired", "expired", expires_unix_s=lambda f: NOW_S - f.random.choice([1e-3, 1.0, 1e6, NOW_S])
)
_signed(
    "wrong robot", "robot", robot_ids=lambda f: f.random.choice([("arm-2",), ("ARM-1",), ("",)])
)
_signed("wrong target", "target", target=lambda f: f.random.choice(["reward", "", "policy\0"]))
_signed("wrong package", "package", package_id=lambda f: f"{f.random.getrandbits(64):016x}")
_signed(
    "wrong calibration", "calibration", calibration_id=lambda f: f"cal-{f.random.randint(2, 99)}"
)
_signed("wrong observation spec", "spec", observation=lambda f: f"{f.random.getrandbits(64):016x}")
_signed("wrong action spec", "spec", action=lambda f: f"{f.random.getrandbits(64):016x}")
_signed("sequence jumps to the end", "sequence", publish_seq=lambda f: MAX_PUBLISH_SEQ + 1)
_signed("size out of bounds", "size", nbytes=lambda f: f.random.choice([0, -1, 2**31, 2**62]))
_signed("hash that is none", "manifest", sha256=lambda f: f.random.choice(["", "../x", "G" * 64]))
_signed("tensors renamed", "tensors", tensors=lambda f: _respecified(f, name="head/other"))
_signed("tensors of other shapes", "tensors", tensors=lambda f: _respecified(f, shape=(7,)))
_signed("tensors of other dtypes", "tensors", tensors=lambda f: _respecified(f, dtype="float64"))
_signed("tensors missing", "tensors", tensors=lambda f: f.package.manifest.refinable[1:])
_signed("tensors twice", "tensors", tensors=lambda f: f.package.manifest.refinable * 2)


def _respecified(forger: Forger, **changes: object) -> tuple[TensorSpec, ...]:
    specs = list(forger.package.manifest.refinable)
    at = forger.random.randrange(len(specs))
    specs[at] = msgspec.structs.replace(specs[at], **changes)
    return tuple(specs)


@kind
def unsigned(forger: Forger, seq: int) -> Bad:
    data = safetensors_bytes(forger.tensors())
    offer = forger.offer(seq, data)
    signature = forger.random.choice([b"", bytes(64), forger.random.randbytes(64), b"x" * 63])
    spoilt = msgspec.structs.replace(offer, signature=signature)
    return Bad("unsigned", spoilt, ("signature",), {"": data})


@kind
def by_a_stranger(forger: Forger, seq: int) -> Bad:
    data = safetensors_bytes(forger.tensors())
    offer = forger.offer(seq, data, Ed25519PrivateKey.generate())
    return Bad("signed by another key", offer, ("signature",), {"": data})


@kind
def manifest_changed(forger: Forger, seq: int) -> Bad:
    data = safetensors_bytes(forger.tensors())
    offer = forger.offer(seq, data)
    text = offer.manifest
    changed = forger.random.choice([forger.flipped(text), text[:-1], text + b" ", b""])
    spoilt = msgspec.structs.replace(offer, manifest=changed)
    return Bad("manifest changed on the way", spoilt, ("signature",), {"": data})


@kind
def signed_nonsense(forger: Forger, seq: int) -> Bad:
    text = forger.random.choice(
        [b"", b"{}", b"null", b"[" * 10_000, b'{"target": 1e999}', forger.random.randbytes(100)]
    )
    text += b" " * forger.random.randrange(1000) + f"{seq}{forger.random.random()}".encode()
    offer = ReleaseOffer("policy", text, forger.key.sign(text))
    return Bad("signed, but no manifest", offer, ("manifest",))


@kind
def replayed(forger: Forger, seq: int) -> Bad:
    """An earlier one that was taken then, or an old number on new weights."""
    if forger.random.random() < 0.5 and len(forger.accepted) > 1:
        # Once each: the same offer refused again is not told again.
        return Bad("replayed", forger.accepted.pop(0), ("replay",))
    data = safetensors_bytes(forger.tensors())
    offer = forger.offer(forger.random.choice([seq - 1, 1, 0, -5]), data)
    return Bad("replayed", offer, ("replay",), {"": data})


@kind
def corrupted(forger: Forger, seq: int) -> Bad:
    data = safetensors_bytes(forger.tensors())
    return Bad("corrupted", forger.offer(seq, data), ("hash",), {"": forger.flipped(data)})


@kind
def exchanged(forger: Forger, seq: int) -> Bad:
    """Sound weights, but not the signed ones."""
    data = safetensors_bytes(forger.tensors())
    other = safetensors_bytes(forger.tensors())
    return Bad("other weights than signed", forger.offer(seq, data), ("hash",), {"": other})


@kind
def cut_off(forger: Forger, seq: int) -> Bad:
    data = safetensors_bytes(forger.tensors())
    part = data[: forger.random.randrange(len(data))]
    return Bad("truncated on the way", forger.offer(seq, data), (NEVER_WHOLE,), {"": part})


def _content(name: str, reason: str, change: Callable[[Forger], bytes]) -> None:
    """A kind whose weights file is wrong in itself, rightly hashed and signed."""

    def make(forger: Forger, seq: int) -> Bad:
        data = change(forger)
        return Bad(name, forger.offer(seq, data), (reason,), {"": data})

    KINDS.append(make)


def _other(forger: Forger, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    tensors = forger.tensors()
    name = forger.random.choice(sorted(tensors))
    tensors[name] = change(tensors[name])
    return safetensors_bytes(tensors)


def _poisoned(forger: Forger) -> bytes:
    value = forger.random.choice([np.nan, np.inf, -np.inf])

    def change(tensor: np.ndarray) -> np.ndarray:
        tensor.reshape(-1)[forger.random.randrange(tensor.size)] = value
        return tensor

    return _other(forger, change)


def _header_lies(forger: Forger) -> bytes:
    data = safetensors_bytes(forger.tensors())
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    entry = header[forger.random.choice(sorted(header))]
    lie = forger.random.randrange(5)
    if lie == 0:
        entry["data_offsets"] = [0, len(body) + 8]
    elif lie == 1:
        entry["data_offsets"] = [at + 4 for at in entry["data_offsets"]]
    elif lie == 2:
        entry["shape"] = [2**40, 2**40]
    elif lie == 3:
        entry["dtype"] = forger.random.choice(["O", "BF16", "F128", ""])
    else:
        entry["shape"] = [-1]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


_content("NaN or infinity", "non_finite", _poisoned)
_content("wrong shape", "tensors", lambda f: _other(f, lambda t: np.zeros((*t.shape, 2), t.dtype)))
_content("wrong dtype", "tensors", lambda f: _other(f, lambda t: t.astype(np.float64)))
_content(
    "a frozen tensor besides",
    "tensors",
    lambda f: safetensors_bytes({**f.tensors(), "trunk/wide": f.package.weights["trunk/wide"]}),
)
_content(
    "truncated when signed",
    "weights",
    lambda f: safetensors_bytes(f.tensors())[: f.random.randint(1, 400)],
)
_content("a header that lies", "weights", _header_lies)
_content("no weights at all", "weights", lambda f: f.random.randbytes(f.random.randint(1, 2000)))


def _encoded(
    name: str,
    reason: str,
    change: Callable[[Forger, bytes, ReleaseEncoding, bytes], tuple[ReleaseEncoding, bytes]],
    which: int | None = None,
    rot: bool = False,
) -> None:
    """A kind whose encoding is bad, and whose weights are corrupted too, or they would be taken rightly."""

    def make(forger: Forger, seq: int) -> Bad:
        data = safetensors_bytes(forger.tensors())
        at = forger.random.randrange(2) if which is None else which
        encoding, encoded = change(forger, data, *forger.encodings(data)[at])
        offer = msgspec.structs.replace(forger.offer(seq, data), encodings=(encoding,))
        served = {encoding.id: encoded, "": forger.flipped(data)}
        return Bad(name, offer, (reason, "hash"), served, rot)

    KINDS.append(make)


def _said(encoding: ReleaseEncoding, encoded: bytes) -> tuple[ReleaseEncoding, bytes]:
    """The encoding as an offer would name these bytes."""
    said = msgspec.structs.replace(encoding, nbytes=len(encoded), sha256=sha256_hex(encoded))
    return said, encoded


def _bomb(size: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    step = bytes(1 << 20)
    frame = b"".join(packer.compress(step) for _ in range(size >> 20)) + packer.flush()
    return len(frame).to_bytes(4, "little") + frame


_BOMB = _bomb(256 << 20)


def _swollen(
    forger: Forger, data: bytes, encoding: ReleaseEncoding, encoded: bytes
) -> tuple[ReleaseEncoding, bytes]:
    """Unfolds to 256 MiB; said to be as large as the weights, or not said at all."""
    frame = bytearray(_BOMB[4:])
    if forger.random.random() < 0.5:
        at = bytes(frame).index((256 << 20).to_bytes(4, "little"))
        frame[at : at + 4] = len(data).to_bytes(4, "little")
    return _said(encoding, (len(frame).to_bytes(4, "little") + bytes(frame))[: len(data) - 1])


_encoded("encoding corrupted", "encoding", lambda f, d, e, b: (e, f.flipped(b)))
_encoded(
    "encoding truncated",
    "encoding",
    lambda f, d, e, b: _said(e, b[: f.random.randrange(1, len(b))]),
)
_encoded("encoding with more behind it", "encoding", lambda f, d, e, b: _said(e, b + b"\0"))
_encoded("encoding that is noise", "encoding", lambda f, d, e, b: _said(e, f.random.randbytes(50)))
_encoded("decompression bomb", "encoding", _swollen)
_encoded(
    "encoding of other weights",
    "encoding",
    lambda f, d, e, b: f.encodings(safetensors_bytes(f.tensors()))[0 if e.base else 1],
)
_encoded("base cut short on disk", "base", lambda f, d, e, b: (e, b), which=0, rot=True)


@kind
def base_not_held(forger: Forger, seq: int) -> Bad:
    """A delta that nobody here can use, and nothing else that is sound."""
    data = safetensors_bytes(forger.tensors())
    encoding, encoded = forger.encodings(data)[0]
    unknown = hashlib.sha256(forger.random.randbytes(8)).hexdigest()
    said = ReleaseEncoding(delta_id(unknown), unknown, encoding.nbytes, encoding.sha256)
    offer = msgspec.structs.replace(forger.offer(seq, data), encodings=(said,))
    return Bad("base not held", offer, ("hash",), {said.id: encoded, "": forger.flipped(data)})
