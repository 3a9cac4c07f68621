"""What a killed process left beside the slots goes, and what another one writes there now stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_package import make_package

from contracts.files import atomic, own_weights
from contracts.files.packages import Package
from runtime.weights.release_files import write_own
from runtime.weights.slots import STATE_FILE, SlotStore


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path / "policy")


def test_control_that_starts_leaves_what_the_link_is_writing(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = SlotStore(tmp_path / "slots", package.package_id)
    torn = atomic.temporary_for(slots.folder / STATE_FILE)
    torn.write_bytes(b"{")
    real = atomic.sync

    def sync(path: Path) -> None:
        if path.name.startswith(".own-"):  # as late as it may come
            slots.recover()
        real(path)

    monkeypatch.setattr(atomic, "sync", sync)
    _, path = write_own(package.folder, package.manifest, slots)
    assert path.is_file() and not torn.exists()


def test_what_a_killed_link_left_goes_with_the_next(tmp_path: Path, package: Package) -> None:
    slots = SlotStore(tmp_path / "slots", package.package_id)
    left = atomic.temporary_for(slots.folder / "own-x.safetensors")
    left.write_bytes(b"1")
    sha256, path = write_own(package.folder, package.manifest, slots)
    assert not left.exists()
    assert own_weights.own_weights(package.folder, package.manifest, slots.folder) == (sha256, path)
