"""Releases on their way in other forms than they were signed: smaller, the same to the bit, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_package import make_package

from contracts import wire
from contracts.files.own_weights import own_weights
from contracts.files.packages import Package
from contracts.messages import (
    ReleaseChunk,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from runtime.link.releases import MAX_SILENCE_S, ReleaseFetcher
from runtime.weights.slots import SlotStore
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.publisher import Publisher
from trainer.signing import PUBLIC_KEY_FILE, SigningKey

Spoil = Callable[[ReleaseWant, bytes], bytes]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


@dataclass
class Robot:
    """A fetcher over real slots, with a clock of its own; what it says waits in `sent`."""

    folder: Path
    package: Package
    sent: list[object] = field(default_factory=list)
    wants: list[ReleaseWant] = field(default_factory=list)
    outcomes: list[ReleaseOutcome] = field(default_factory=list)
    now_s: float = 100.0

    def __post_init__(self) -> None:
        self.slots = SlotStore(self.folder / "slots", self.package.package_id)
        self.fetcher = ReleaseFetcher(
            "policy",
            self.package.manifest,
            self.slots,
            robot_id="bench-0",
            session_id="s1",
            key_path=self.folder.parent / "trainer" / PUBLIC_KEY_FILE,
            send=self._send,
            report=self.outcomes.append,
            on_staged=lambda seq: None,
            own=own_weights(self.package.folder, self.package.manifest, self.slots.folder),
            clock=lambda: self.now_s,
        )

    def _send(self, parts: list[bytes | memoryview]) -> bool:
        self.sent.append(wire.unpack([bytes(part) for part in parts]).message)
        return True

    def talk(
        self, trainer: Publisher, spoil: Spoil = lambda want, data: data, at_most: int = 1000
    ) -> None:
        """Until there is nothing more to fetch, or `at_most` chunks came."""
        for _ in range(10):
            self.now_s += MAX_SILENCE_S + 1.0
            self.fetcher.tick(self.now_s)
            self.now_s += 0.1
            self.fetcher.tick(self.now_s)
            while self.sent:
                message = self.sent.pop(0)
                if isinstance(message, ReleaseQuery):
                    answer = trainer.answer_query(message, 0)
                    if not isinstance(answer, ReleaseOffer):
                        return
                    self.fetcher.on_offer(answer)
                elif isinstance(message, ReleaseWant):
                    if at_most == 0:
                        return
                    at_most -= 1
                    self.wants.append(message)
                    self.serve(trainer, message, spoil)

    def serve(self, trainer: Publisher, want: ReleaseWant, spoil: Spoil) -> None:
        packet = wire.unpack([bytes(part) for part in trainer.answer_want(want)])
        chunk = packet.message
        assert isinstance(chunk, ReleaseChunk)
        data = spoil(want, bytes(packet.data["data"]))
        packet = wire.unpack(
            [bytes(p) for p in wire.pack(chunk, [wire.raw("data", np.frombuffer(data, np.uint8))])]
        )
        self.fetcher.on_chunk(chunk, packet)

    @property
    def ways(self) -> list[str]:
        """What was asked for, in order, without repetition: "raw", "zstd", "delta"."""
        kinds = [want.encoding.partition(":")[0] or "raw" for want in self.wants]
        return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]

    def staged(self) -> bytes:
        found = self.slots.find("staged")
        assert found is not None
        return self.slots.weights_path(found[0]).read_bytes()


@pytest.fixture
def trainer(tmp_path: Path, package: Package) -> Publisher:
    return Publisher(tmp_path / "trainer" / "releases", package.manifest, own=package.folder)


@pytest.fixture
def robot(tmp_path: Path, package: Package, trainer: Publisher) -> Robot:
    (tmp_path / "robot").mkdir()
    return Robot(tmp_path / "robot", package)


def publish(trainer: Publisher, package: Package, by: float) -> int:
    own = package.refinable_weights()
    rng = np.random.default_rng(int(by * 1e6))
    tensors = {
        name: (t * (1 + by * rng.standard_normal(t.shape))).astype(t.dtype)
        for name, t in own.items()
    }
    seq = trainer.prepare(Update(tensors, 3), 1).publish_seq
    trainer.commit(seq)
    return seq


def grown(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that even a tiny head takes many."""
    monkeypatch.setattr("runtime.link.releases.CHUNK_BYTES", 30)


def test_the_first_release_comes_as_a_difference_from_the_packages_own_weights(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    robot.talk(trainer)  # the trainer hears what the robot holds
    seq = publish(trainer, package, 1e-4)
    robot.talk(trainer)
    assert robot.ways == ["delta"] and robot.outcomes == []
    assert robot.staged() == trainer.load_weights(seq)
    assert trainer.bytes_sent == robot.fetcher.bytes_fetched < 0.95 * len(robot.staged())


def test_the_next_one_is_a_difference_from_what_the_robot_has_not_from_what_is_newest(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    publish(trainer, package, 1e-4)
    robot.talk(trainer)
    held = robot.staged()
    publish(trainer, package, 0.3)  # the robot is away
    seq = publish(trainer, package, 1e-4 + 1e-7)
    robot.talk(trainer)
    assert robot.ways[-1] == "delta" and robot.staged() == trainer.load_weights(seq) != held


def test_a_robot_that_lacks_the_base_gets_it_whole(
    robot: Robot, trainer: Publisher, package: Package, tmp_path: Path
) -> None:
    robot.talk(trainer)
    publish(trainer, package, 1e-4)
    robot.talk(trainer)
    seq = publish(trainer, package, 2e-4)
    fresh = Robot(tmp_path / "other", package)
    fresh.fetcher._files._own = None
    fresh.fetcher._have = ()
    fresh.talk(trainer)
    assert "delta" not in fresh.ways and fresh.staged() == trainer.load_weights(seq)


def test_a_spoilt_encoding_costs_its_bytes_and_the_release_still_comes(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    robot.talk(trainer)
    seq = publish(trainer, package, 1e-4)
    robot.talk(
        trainer,
        lambda want, data: data[:-1] + bytes([data[-1] ^ 1]) if want.encoding else data,
    )
    assert robot.ways == ["delta", "raw"] and robot.outcomes == []
    assert robot.fetcher.reasons == {"encoding": 1}
    assert robot.staged() == trainer.load_weights(seq)
    assert [p.name for p in robot.slots.folder.rglob("*.part")] == []


def test_a_base_that_rotted_on_disk_is_found_out(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    robot.talk(trainer)
    seq = publish(trainer, package, 1e-4)
    own = next(robot.slots.folder.glob("own-*"))
    rotten = bytearray(own.read_bytes())
    rotten[-1] ^= 1
    own.write_bytes(rotten)
    robot.talk(trainer)
    assert robot.ways == ["delta", "raw"] and robot.fetcher.reasons == {"encoding": 1}
    assert robot.staged() == trainer.load_weights(seq)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_restart_goes_on_in_the_middle_of_a_difference(
    robot: Robot, trainer: Publisher, package: Package, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    grown(package, monkeypatch)
    robot.talk(trainer)
    seq = publish(trainer, package, 1e-4)
    robot.talk(trainer, at_most=after)
    again = Robot(robot.folder, package)
    again.talk(trainer)
    assert again.ways == ["delta"] and again.wants[0].offset == 30 * after
    assert again.staged() == trainer.load_weights(seq)
    found = again.slots.find("staged")
    size = min(e.nbytes for e in trainer.answer_query(
        ReleaseQuery("x", "policy", package.package_id, 0), 0).encodings)  # fmt: skip
    assert found is not None and found[1].bytes_on_wire == size


def test_killed_while_it_unpacks_nothing_is_fetched_again(
    robot: Robot, trainer: Publisher, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.talk(trainer)
    seq = publish(trainer, package, 1e-4)

    def killed(*_: object) -> Iterator[np.ndarray]:
        yield np.zeros(8, np.uint8)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("runtime.weights.release_files.decode", killed)
        robot.talk(trainer)
    again = Robot(robot.folder, package)
    again.talk(trainer)
    assert again.wants == [] and again.staged() == trainer.load_weights(seq)


def test_parts_of_an_older_release_are_not_gone_on_with(
    robot: Robot, trainer: Publisher, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(package, monkeypatch)
    robot.talk(trainer)
    publish(trainer, package, 1e-4)
    robot.talk(trainer, at_most=2)
    seq = publish(trainer, package, 2e-4)
    seq = publish(trainer, package, 3e-4)  # so that the one begun is served no more
    again = Robot(robot.folder, package)
    again.talk(trainer)
    assert again.staged() == trainer.load_weights(seq)
    assert list(again.slots.folder.rglob("*.part")) == []


def test_a_robot_in_the_middle_of_the_last_one_comes_to_its_end(
    robot: Robot, trainer: Publisher, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(package, monkeypatch)
    first = publish(trainer, package, 1e-4)
    robot.fetcher.tick(robot.now_s)
    robot.fetcher.on_offer(trainer.answer_query(robot.sent.pop(), 0))
    publish(trainer, package, 2e-4)
    while robot.sent:
        robot.serve(trainer, robot.sent.pop(0), lambda want, data: data)
    assert robot.staged() == trainer.load_weights(first)


def test_a_lying_offer_of_encodings_is_passed_over(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    seq = publish(trainer, package, 1e-4)
    offer = trainer.answer_query(ReleaseQuery("x", "policy", package.package_id, 0), 0)
    good = offer.encodings[0]
    lies = [
        {"id": "lzma"}, {"id": "zstd", "base": "a" * 64}, {"id": "delta:1", "base": ""},
        {"base": "b" * 64}, {"nbytes": 0}, {"nbytes": -1}, {"nbytes": 2**60},
        {"sha256": "../../../../x"}, {"sha256": ""},
    ]  # fmt: skip
    encodings = tuple(msgspec.structs.replace(good, **lie) for lie in lies)
    robot.fetcher.on_offer(msgspec.structs.replace(offer, encodings=encodings))
    robot.talk(trainer)
    wants = [m for m in [*robot.sent, *robot.wants] if isinstance(m, ReleaseWant)]
    assert wants[0].encoding == "" and robot.staged() == trainer.load_weights(seq)


def test_the_publisher_keeps_within_its_disk_and_serves_from_it(
    tmp_path: Path, package: Package
) -> None:
    trainer = Publisher(tmp_path / "t" / "releases", package.manifest, keep=3, own=package.folder)
    for number in range(6):
        publish(trainer, package, 1e-4 * (number + 1))
    folder = tmp_path / "t" / "releases" / "policy"
    kept = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert kept == ["00000004", "00000005", "00000006"]
    assert [p for p in (folder / kept[0]).iterdir() if p.suffix == ".encoded"] == []
    assert list((folder / kept[1]).glob("*.encoded")), "one that is served keeps what was offered"
    small = Publisher(tmp_path / "t" / "releases", package.manifest, keep_mib=0)
    small.commit(6)
    assert [p.name for p in folder.iterdir() if p.is_dir()] == ["00000006"]


def test_after_a_rotation_releases_are_signed_by_the_new_key_the_offered_one_too(
    tmp_path: Path, package: Package
) -> None:
    root = tmp_path / "t" / "releases"
    trainer = Publisher(root, package.manifest, encodings=EncodingOptions(enabled=False))
    publish(trainer, package, 1e-4)
    query = ReleaseQuery("x", "policy", package.package_id, 0)
    before = trainer.answer_query(query, 0)
    keys = SigningKey(root)
    old = keys.public
    keys.rotate("t", 1.0)
    after = trainer.answer_query(query, 0)
    assert after.manifest == before.manifest and after.signature != before.signature
    from contracts.key_rotation import follow, public_key

    assert follow(old, keys.chain()) == keys.public != old
    public_key(keys.public).verify(after.signature, after.manifest)
    seq = publish(trainer, package, 2e-4)
    newest = trainer.answer_query(query, 0)
    public_key(keys.public).verify(newest.signature, newest.manifest)
    assert seq == 2 and (root.parent / PUBLIC_KEY_FILE).read_text().strip() == keys.public


def test_only_what_both_ends_named_is_used(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    robot.fetcher._features = lambda: {"zstd"}
    robot.talk(trainer)
    seq = publish(trainer, package, 1e-4)
    robot.talk(trainer)
    assert robot.ways == ["raw"] and robot.staged() == trainer.load_weights(seq)
