"""Which releases are served, and how long."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_package import make_package

from contracts import wire
from contracts.errors import WireError
from contracts.files.packages import Package
from contracts.messages import ReleaseChunk, ReleaseWant
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.publisher import MAX_WANTED, WANTED_S, Publisher


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


class Publishing:
    """A publisher with a clock of its own, which keeps two releases."""

    def __init__(self, folder: Path, package: Package, **given) -> None:
        self.now_s, self.folder, self._package = 0.0, folder, package
        encodings = EncodingOptions(enabled=False)
        self.publisher = Publisher(
            *(folder, package.manifest),
            **{"keep": 2, "encodings": encodings, "clock": lambda: self.now_s, **given},
        )

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            update = Update(self._package.refinable_weights(), 1, {})
            self.publisher.commit(self.publisher.prepare(update, 1).publish_seq)

    def serves(self, publish_seq: int) -> bool:
        want = ReleaseWant("bench-0", "policy", publish_seq, 0, 8)
        try:
            packet = wire.unpack([bytes(part) for part in self.publisher.answer_want(want)])
        except WireError as error:
            assert "not offered" in str(error)
            return False
        assert isinstance(packet.message, ReleaseChunk) and packet.array("data").nbytes == 8
        return True

    @property
    def on_disk(self) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / "policy").iterdir())


def test_a_fetch_over_a_slow_wire_comes_to_its_end_however_often_is_published(
    tmp_path: Path, package: Package
) -> None:
    bench = Publishing(tmp_path / "releases", package)
    bench.publish()
    for _ in range(12):
        assert bench.serves(1)
        bench.now_s += WANTED_S / 2
        bench.publish()
    assert bench.on_disk == [1, 12, 13]
    bench.now_s += WANTED_S
    bench.publish()
    assert not bench.serves(1) and bench.on_disk == [13, 14]


def test_no_more_than_a_few_are_served_on(tmp_path: Path, package: Package) -> None:
    bench = Publishing(tmp_path / "releases", package)
    for seq in range(1, 2 * MAX_WANTED):
        bench.publish()
        assert all(bench.serves(n) for n in range(max(1, seq - MAX_WANTED), seq + 1))
        bench.now_s += 0.001
    bench.publish()
    served = [seq for seq in bench.on_disk if bench.serves(seq)]
    assert len(served) == MAX_WANTED + 2 and served[-1] == 2 * MAX_WANTED
