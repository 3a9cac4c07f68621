"""A release: signed, versioned set of refined weights. Owns the manifest, signing and its verification.

Ed25519 over the manifest's exact bytes; the manifest carries the hash of the weights. Pure: keys and
bytes in, verdict out.
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.errors import ReleaseRejected
from contracts.package import TensorSpec

MAX_WEIGHTS_BYTES = 1024 * 1024 * 1024


class ReleaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`publish_seq` strictly increases per target; `weights_id` is the content hash of the tensors
    (`contracts.package.weights_id`), `sha256` that of the safetensors file of `nbytes`. `parent` is the
    publish_seq it was refined from (0: the package's own weights). `samples` is how many candidate
    chunks the robot should draw. `robot_ids` empty means any robot that holds the package."""

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


def sign(manifest: ReleaseManifest, key: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """(canonical manifest bytes, 64-byte signature)."""
    data = msgspec.json.encode(manifest)
    return data, key.sign(data)


def verify(
    data: bytes,
    signature: bytes,
    public_key: Ed25519PublicKey,
    *,
    target: str,
    package_id: str,
    robot_id: str,
    newest_seq: int,
    now_unix_s: float,
) -> ReleaseManifest:
    """The manifest, if it is signed, fresh, for this robot and package; else `ReleaseRejected`.

    Nothing of the manifest is believed before the signature is checked.
    """
    try:
        public_key.verify(signature, data)
    except InvalidSignature:
        raise ReleaseRejected(
            "signature", "signature does not match", remedy="enroll this trainer on the robot"
        ) from None
    try:
        manifest = msgspec.json.decode(data, type=ReleaseManifest)
    except msgspec.MsgspecError as error:
        raise ReleaseRejected("manifest", "manifest is malformed", found=str(error)) from error
    if manifest.target != target or manifest.package_id != package_id:
        raise ReleaseRejected(
            "package",
            "release is for another package",
            expected=f"{target} {package_id}",
            found=f"{manifest.target} {manifest.package_id}",
        )
    if manifest.robot_ids and robot_id not in manifest.robot_ids:
        raise ReleaseRejected(
            "robot", "release is for other robots", expected=robot_id, found=manifest.robot_ids
        )
    if manifest.publish_seq <= newest_seq:
        raise ReleaseRejected(
            "replay",
            "publish_seq does not increase",
            expected=f"> {newest_seq}",
            found=manifest.publish_seq,
        )
    if manifest.expires_unix_s < now_unix_s:
        raise ReleaseRejected(
            "expired",
            "release has expired",
            found=f"{now_unix_s - manifest.expires_unix_s:.0f} s ago",
            remedy="publish again, or set the clock of the robot",
        )
    if not 0 < manifest.nbytes <= MAX_WEIGHTS_BYTES:
        raise ReleaseRejected("size", "size out of bounds", found=manifest.nbytes)
    return manifest


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
