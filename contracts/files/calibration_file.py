"""`calibration.json` on disk: read with its signature checked, replaced atomically, the one before it kept.

Owns the names of the files beside it; what is in them is `contracts.calibration`'s.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.calibration import MAX_BYTES, Calibration, calibration_id, is_key, seal, unseal
from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import make_private, read_secret, write_secret

KEYS, KEY_FILE = "keys", "calibration.key"


def read(path: Path, key: str) -> Calibration:
    """`key`: hex of the public key that must have signed it. Raises `ConfigError`."""
    try:
        data = atomic.read_bytes(path, MAX_BYTES)
    except (atomic.FileError, OSError) as error:
        raise ConfigError(
            f"can't read the calibration {path}",
            found=str(error),
            remedy="set calibration.file to what robot-calibrate wrote, or calibrate this robot",
        ) from error
    if not is_key(key):
        raise ConfigError(
            f"no key for {path}",
            expected="calibration.key: 64 hex digits",
            found=key or "none",
            remedy="set it to what robot-calibrate said when it wrote the file",
        )
    return unseal(data, str(path), key)


def write(path: Path, calibration: Calibration, key: Ed25519PrivateKey) -> str:
    """Replace it, and keep it under its id, so that a later one can be compared with it. Returns the id."""
    data = seal(calibration, key)
    found = calibration_id(calibration)
    atomic.write_bytes(kept(path, found), data)
    atomic.write_bytes(path, data)
    return found


def kept(path: Path, which: str) -> Path:
    """Where the calibration of that id is kept: `calibration-<id>.json` beside `calibration.json`."""
    return path.with_name(f"{path.stem}-{which}{path.suffix}")


def former(path: Path, which: str, key: str) -> Calibration | None:
    """The calibration of that id, if it is kept beside `path` and sound."""
    if not (which.isalnum() and kept(path, which).is_file()):
        return None
    try:
        return read(kept(path, which), key)
    except ConfigError:
        return None


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs the calibration at `path`: `keys/calibration.key` beside it, made on first use.
    Raises `ConfigError` for one that others may read."""
    folder = path.absolute().parent / KEYS
    make_private(folder)
    secret = folder / KEY_FILE
    if not secret.exists():
        write_secret(secret, Ed25519PrivateKey.generate().private_bytes_raw())
    data = read_secret(secret)
    if len(data) != 32:
        raise ConfigError(f"{secret} is not a signing key", expected="32 bytes", found=len(data))
    return Ed25519PrivateKey.from_private_bytes(data)
