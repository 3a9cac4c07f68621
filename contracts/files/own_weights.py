"""A package's own refinable weights as the file that a release of them would be: the first base of deltas.

Both ends write it for themselves; that it is the same file is known by its hash.
"""

from __future__ import annotations

from pathlib import Path

from contracts.encodings import sha256_hex
from contracts.files import atomic, packages
from contracts.package import PackageManifest, package_id


def own_weights(package: Path, manifest: PackageManifest, folder: Path) -> tuple[str, Path]:
    """(SHA-256, path under `folder`), written once a package; those of other packages go. Raises
    `PackageError`."""
    path = folder / f"own-{package_id(manifest)}.safetensors"
    if path.is_file():
        return sha256_hex(atomic.read_bytes(path, packages.MAX_READ_BYTES)), path
    for other in folder.glob("own-*.safetensors"):
        other.unlink(missing_ok=True)
    data = packages.safetensors_bytes(packages.load_package(package).refinable_weights())
    atomic.write_bytes(path, data)
    return sha256_hex(data), path
