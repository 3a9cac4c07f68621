"""A release: signed, versioned set of refined weights. Owns the manifest, signing and its verification.

Ed25519 over the manifest's exact bytes; the manifest carries the hash of the weights. Pure: keys and
bytes in, verdict out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.encodings import is_sha256
from contracts.errors import ReleaseRejected
from contracts.package import TensorSpec

MAX_WEIGHTS_BYTES = 1024 * 1024 * 1024
MAX_MANIFEST_BYTES = 256 * 1024
MAX_PUBLISH_SEQ = 1 << 53


class ReleaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`publish_seq` strictly increases per target; `weights_id` is the content hash of the tensors
    (`contracts.package.weights_id`), `sha256` that of the safetensors file of `nbytes`. `parent` is the
    publish_seq it was refined from (0: the package's own weights). `samples` is how many candidate
    chunks the robot should draw. `robot_ids` empty means any robot that holds the package. `calibration_id`:
    of the cameras that it was refined with, `observation` and `action` the hashes of its package's specs
    (`contracts.specs.spec_hash`); empty where the trainer knew none. `answers`: what its weights answered
    at the trainer to the package's golden inputs of the head (`contracts.answers.pack`), empty for unknown.

    What is empty is left out of the bytes that are signed: a robot of before a field refuses only releases
    that use it."""

    target: str
    package_id: str
    publish_seq: int
    parent: int
    iteration: int
    weights_id: str
    sha256: str
    nbytes: int
    tensors: tuple[TensorSpec, ...]
    samples: int
    robot_ids: tuple[str, ...]
    calibration_id: str
    created_unix_s: float
    expires_unix_s: float
    trainer: str
    settings: dict[str, float] = {}
    observation: str = ""
    action: str = ""
    answers: bytes = b""


@dataclass(frozen=True)
class Expected:
    """What this robot takes releases for, and from where on. The specs' hashes and the calibration are those
    of its own package and cameras; empty ones match only releases that name none."""

    target: str
    package_id: str
    robot_id: str
    newest_seq: int
    calibration_id: str = ""
    observation: str = ""
    action: str = ""


def sign(manifest: ReleaseManifest, key: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """(canonical manifest bytes, 64-byte signature)."""
    data = msgspec.json.encode(manifest)
    return data, key.sign(data)


def verify(
    data: bytes,
    signature: bytes,
    public_key: Ed25519PublicKey,
    expected: Expected,
    *,
    now_unix_s: float,
) -> ReleaseManifest:
    """The manifest, if it is signed, fresh, for this robot and package; else `ReleaseRejected`.

    Nothing of the manifest is believed before the signature is checked.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ReleaseRejected(
            "manifest", "manifest too large", expected=f"<= {MAX_MANIFEST_BYTES}", found=len(data)
        )
    try:
        public_key.verify(signature, data)
    except InvalidSignature:
        raise ReleaseRejected(
            "signature", "signature does not match", remedy="enroll this trainer on the robot"
        ) from None
    try:
        manifest = msgspec.json.decode(data, type=ReleaseManifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseRejected("manifest", "manifest is malformed", found=str(error)) from error
    _check_for_whom(manifest, expected)
    require_newer(manifest, expected.newest_seq)
    if manifest.publish_seq > MAX_PUBLISH_SEQ:
        # Taken, it would be the last one that this robot ever takes.
        raise ReleaseRejected("sequence", "publish_seq out of bounds", found=manifest.publish_seq)
    require_fresh(manifest, now_unix_s)
    if not 0 < manifest.nbytes <= MAX_WEIGHTS_BYTES:
        raise ReleaseRejected("size", "size out of bounds", found=manifest.nbytes)
    if not is_sha256(manifest.sha256):
        raise ReleaseRejected("manifest", "sha256 is none", found=repr(manifest.sha256[:80]))
    return manifest


def require_newer(manifest: ReleaseManifest, newest_seq: int) -> None:
    """Raise `ReleaseRejected` unless its number is above `newest_seq`."""
    if manifest.publish_seq <= newest_seq:
        raise ReleaseRejected(
            "replay",
            "publish_seq does not increase",
            expected=f"> {newest_seq}",
            found=manifest.publish_seq,
        )


def require_fresh(manifest: ReleaseManifest, now_unix_s: float) -> None:
    """Raise `ReleaseRejected` once it has expired."""
    if not manifest.expires_unix_s >= now_unix_s:
        raise ReleaseRejected(
            "expired",
            "release has expired",
            found=f"{now_unix_s - manifest.expires_unix_s:.0f} s ago",
            remedy="publish again, or set the clock of the robot",
        )


def _check_for_whom(manifest: ReleaseManifest, expected: Expected) -> None:
    """Raises `ReleaseRejected` unless it is for this robot, its package, its specs and its cameras."""
    for reason, what, wanted, found in (
        ("target", "release is for another target", expected.target, manifest.target),
        ("package", "release is for another package", expected.package_id, manifest.package_id),
        ("spec", "release is for another observation", expected.observation, manifest.observation),
        ("spec", "release is for another action", expected.action, manifest.action),
        (
            "calibration",
            "release was refined with another calibration",
            expected.calibration_id,
            manifest.calibration_id,
        ),
    ):
        unnamed = not found and reason in ("spec", "calibration")
        if found != wanted and not unnamed:
            remedy = "refine with this robot's calibration" if reason == "calibration" else None
            raise ReleaseRejected(reason, what, expected=wanted, found=found[:80], remedy=remedy)
    if manifest.robot_ids and expected.robot_id not in manifest.robot_ids:
        raise ReleaseRejected(
            "robot",
            "release is for other robots",
            expected=expected.robot_id,
            found=manifest.robot_ids[:8],
        )


def verify_weights(manifest: ReleaseManifest, data: bytes | memoryview) -> None:
    """Raise `ReleaseRejected` unless the safetensors bytes are the ones that were signed."""
    if len(data) != manifest.nbytes:
        raise ReleaseRejected(
            "size", "weights have another size", expected=manifest.nbytes, found=len(data)
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest.sha256:
        raise ReleaseRejected(
            "hash", "weights are not the signed ones", expected=manifest.sha256, found=digest
        )
