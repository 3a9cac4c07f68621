"""Which releases are served, and how long; robots that have seen more of them than the trainer has."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_package import make_package

from contracts import wire
from contracts.errors import WireError
from contracts.files.packages import Package
from contracts.messages import ReleaseChunk, ReleaseNone, ReleaseQuery, ReleaseWant
from trainer.encoder import Encoder, EncodingOptions
from trainer.interfaces import Update
from trainer.metrics import Metrics, read_metrics
from trainer.publisher import MAX_WANTED, WANTED_S, Publisher
from trainer.release_desk import ReleaseDesk


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


def test_a_release_that_could_not_be_written_whole_leaves_no_bytes_and_its_number(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try left the weights behind, on a disk that is full."""
    publishing = Publishing(tmp_path, package)
    publishing.publish()

    def full(*_what: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "write", full)
        for number in (2, 3):
            with pytest.raises(OSError, match="No space left"):
                publishing.publish()
            assert publishing.on_disk[-1] == number
            assert not any((tmp_path / "policy" / f"{number:08d}").iterdir())
    publishing.publish()
    assert publishing.on_disk == [1, 4], "numbers are taken once, and nothing else is left of them"
    assert publishing.publisher.last_update() is not None


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


class Answering:
    """A desk whose robots ask for releases of `publisher`."""

    def __init__(self, folder: Path, package: Package, publisher: Publisher) -> None:
        self.path, self._package = folder / "metrics.jsonl", package
        self.answers: list[object] = []
        metrics = Metrics(self.path)
        self._desk = ReleaseDesk(
            self.path, metrics, lambda _, parts: self.answers.append(wire.unpack(parts).message)
        )
        self._work = SimpleNamespace(publisher_of=lambda _: publisher, iteration=3, note="")

    def ask(self, robot_id: str, have_seq: int, package_id: str = "") -> None:
        query = ReleaseQuery(robot_id, "policy", package_id or self._package.package_id, have_seq)
        self._desk.on_query(robot_id.encode(), query, self._work)  # type: ignore[arg-type]


def test_a_robot_that_has_seen_more_releases_than_there_are_here_is_named_once(
    tmp_path: Path, package: Package, capsys
) -> None:
    """As by a trainer that was put back from a copy: it published for days, and nothing was taken."""
    bench = Publishing(tmp_path / "releases", package)
    bench.publish(3)
    desk = Answering(tmp_path, package, bench.publisher)
    desk.ask("arm", 3)
    desk.ask("arm", 0)
    desk.ask("other", 9, package_id="another")
    assert capsys.readouterr().err == "", "nothing out of order"
    for _ in range(3):
        desk.ask("arm", 50)
        desk.ask("leg", 51)
    assert isinstance(desk.answers[-1], ReleaseNone)
    told = capsys.readouterr().err
    assert told.count("'arm' has seen policy release 50 of this package") == 1
    assert told.count("the highest number here is 3: it takes none up to 50.") == 1
    assert told.count("--set release.above=51") == 1 and len(told.splitlines()) == 2
    rows = [row for row in read_metrics(desk.path) if row["kind"] == "outrun"]
    found = [(row["robot_id"], row["target"], row["seen"], row["known"]) for row in rows]
    assert found == [("arm", "policy", 50, 3), ("leg", "policy", 51, 3)]


def test_numbers_that_were_used_or_passed_over_are_known(
    tmp_path: Path, package: Package, capsys
) -> None:
    """`release.above`, and a release that was written and never offered."""
    bench = Publishing(tmp_path / "releases", package)
    bench.publisher.prepare(Update(package.refinable_weights(), 1, {}), 1)
    Answering(tmp_path, package, bench.publisher).ask("arm", 1)
    set_above = Publishing(tmp_path / "releases", package, above=50)
    Answering(tmp_path, package, set_above.publisher).ask("arm", 50)
    assert capsys.readouterr().err == ""
    set_above.publish()
    assert set_above.publisher.newest_seq == 51
