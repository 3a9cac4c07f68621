"""Which versions of libraries made a package."""

from __future__ import annotations

from importlib import metadata


def versions(*names: str) -> dict[str, str]:
    """Installed versions by distribution's name; "" for one that isn't there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found
