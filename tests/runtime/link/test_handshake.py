"""Greeting: what both ends have, both versions named, again after silence, nobody speaks for another."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from contracts import wire
from contracts.encodings import KINDS, kind_of
from contracts.errors import WireError
from contracts.messages import (
    Goodbye,
    Hello,
    ReleaseEncoding,
    ReleaseOffer,
    ReleaseQuery,
    Welcome,
)
from runtime.link.handshake import AGAIN_S, AWAY_S, REFUSED_AGAIN_S, SILENT_S, Handshake, in_words
from trainer import peers
from trainer.metrics import Metrics
from trainer.peers import MAX_PEERS, Peers, check_speaker
from trainer.release_desk import ReleaseDesk

HELLO = Hello("bench-0", "s1", wire.VERSIONS, ("zstd", "h264"), "0.1")


class Ends:
    """A robot's and a trainer's end, messages passed by hand."""

    def __init__(self, hello: Hello = HELLO) -> None:
        self.now_s = 100.0
        self.sent: list[Hello] = []
        self.reachable = True
        self.robot = Handshake(hello, self._take)
        self.trainer = Peers("t", clock=lambda: self.now_s)

    def _take(self, parts: list[bytes | memoryview]) -> bool:
        if self.reachable:
            self.sent.append(wire.unpack(parts).message)  # type: ignore[arg-type]
        return self.reachable

    def greet(self, peer: bytes = b"1") -> Welcome | Goodbye:
        answer = self.trainer.greet("episodes", peer, self.sent[-1])
        if isinstance(answer, Welcome):
            self.robot.on_welcome(answer)
        else:
            self.robot.on_goodbye(answer, self.now_s)
        self.robot.heard(self.now_s)
        return answer

    def hellos(self, at_s: float) -> int:
        self.sent.clear()
        self.now_s = at_s
        self.robot.tick(at_s)
        return len(self.sent)


def test_only_features_of_both_ends_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FEATURES", ("delta", "zstd"))
    ends = Ends()
    assert not ends.robot.welcomed and ends.robot.features == frozenset()
    ends.robot.tick(100.0)
    assert ends.greet() == Welcome("t", wire.VERSION, ("zstd",))
    assert ends.robot.welcomed and ends.robot.features == {"zstd"}
    known = ends.trainer.known("episodes", b"1")
    assert known is not None and known.features == {"zstd"}


def test_a_trainer_that_is_not_there_is_greeted_as_soon_as_it_is() -> None:
    ends = Ends()
    ends.reachable = False
    assert [ends.hellos(100.0 + 0.01 * n) for n in range(5)] == [0] * 5
    ends.reachable = True
    assert ends.hellos(100.1) == 1 and ends.hellos(100.2) == 0, "and not again at once"
    assert ends.hellos(100.1 + AGAIN_S) == 1


def test_silence_asks_again_and_then_forgets_the_welcome() -> None:
    ends = Ends()
    ends.robot.tick(100.0)
    ends.greet()
    assert ends.hellos(100.0 + SILENT_S - 0.1) == 0
    assert ends.hellos(100.0 + SILENT_S) == 1 and ends.robot.welcomed
    ends.hellos(100.0 + AWAY_S + 0.1)
    assert not ends.robot.welcomed


def test_a_trainer_that_started_anew_is_greeted_at_once_and_a_refusal_waits() -> None:
    ends = Ends()
    ends.robot.tick(100.0)
    ends.greet()
    ends.robot.on_goodbye(Goodbye("unknown"), 101.0)
    assert not ends.robot.welcomed and ends.robot.refusal is None and ends.hellos(101.0) == 1
    ends.robot.on_goodbye(Goodbye("revoked", "by hand"), 102.0)
    assert ends.robot.refusal is not None
    assert ends.hellos(102.0 + REFUSED_AGAIN_S - 0.1) == 0 and ends.hellos(112.0) == 1


def test_a_robot_of_another_version_is_told_both() -> None:
    ends = Ends(msgspec.structs.replace(HELLO, versions=(wire.VERSION + 1, wire.VERSION + 2)))
    ends.robot.tick(100.0)
    answer = ends.greet()
    assert isinstance(answer, Goodbye) and answer.reason == "version"
    assert ends.trainer.refused == {"version": 1} and ends.trainer.known("episodes", b"1") is None
    low, high = wire.VERSIONS
    assert f"wire versions here {low} to {high}, there {low} to {high}" in in_words(answer, "r")


@pytest.mark.parametrize(
    "welcome", [Welcome("t", wire.VERSION + 1), Welcome("t", wire.VERSION, ("delta",))]
)
def test_a_welcome_that_names_what_was_not_offered_is_refused(welcome: Welcome) -> None:
    ends = Ends()
    with pytest.raises(WireError, match="does not answer"):
        ends.robot.on_welcome(welcome)
    assert not ends.robot.welcomed


def test_a_connection_speaks_for_its_robot_alone() -> None:
    ends = Ends()
    ends.robot.tick(100.0)
    ends.greet()
    known = ends.trainer.known("episodes", b"1")
    assert known is not None
    check_speaker(known, "bench-0")
    with pytest.raises(WireError, match="expected bench-0, found bench-1"):
        check_speaker(known, "bench-1")
    assert ends.trainer.known("weights", b"1") is None, "each socket is greeted for itself"
    ends.trainer.forget("bench-0")
    assert ends.trainer.known("episodes", b"1") is None


def test_a_key_that_may_not_speak_for_a_robot_is_refused() -> None:
    def may_speak(robot_id: str, user: str) -> str:
        return "" if robot_id == user else f"this key is {user}'s"

    trainer = Peers("t", may_speak=may_speak)
    assert isinstance(trainer.greet("episodes", b"1", HELLO, "bench-0"), Welcome)
    answer = trainer.greet("episodes", b"1", HELLO, "bench-1")
    assert isinstance(answer, Goodbye) and answer.reason == "identity"
    assert trainer.known("episodes", b"1") is None, "its earlier greeting counts no more"


def test_connections_are_bounded_and_the_silent_make_room(monkeypatch) -> None:
    now = [0.0]
    trainer = Peers("t", clock=lambda: now[0])
    for number in range(MAX_PEERS):
        robot = msgspec.structs.replace(HELLO, robot_id=f"robot-{number}")
        assert isinstance(trainer.greet("episodes", b"%d" % number, robot), Welcome)
    answer = trainer.greet("episodes", b"new", HELLO)
    assert isinstance(answer, Goodbye) and answer.reason == "full"
    now[0] = peers.KEPT_S
    assert trainer.known("episodes", b"1") is not None
    assert isinstance(trainer.greet("episodes", b"new", HELLO), Welcome)
    assert trainer.known("episodes", b"0") is None and trainer.known("episodes", b"1") is not None


def test_a_robot_with_many_connections_makes_room_for_its_own(monkeypatch) -> None:
    now = [0.0]
    trainer = Peers("t", clock=lambda: now[0])
    other = msgspec.structs.replace(HELLO, robot_id="bench-1")
    assert isinstance(trainer.greet("episodes", b"other", other), Welcome)
    for number in range(2 * MAX_PEERS):
        now[0] += 0.01
        for socket in ("episodes", "weights"):
            assert isinstance(trainer.greet(socket, b"%d" % number, HELLO), Welcome)
        assert trainer.known("episodes", b"0") is not None, "the one that speaks keeps its place"
    assert len(trainer.of_robot("bench-0", "episodes")) == peers.MAX_OF_ROBOT
    assert len(trainer.of_robot("bench-0", "weights")) == peers.MAX_OF_ROBOT
    assert isinstance(trainer.greet("weights", b"other", other), Welcome), (
        "and others find theirs free"
    )
    assert trainer.known("episodes", b"other") is not None


def test_a_release_is_offered_in_the_encodings_that_the_robots_greeting_named(tmp_path) -> None:
    assert set(wire.FEATURES) == {*KINDS, wire.ANSWERS}
    encodings = tuple(ReleaseEncoding(name, "", 9, "0" * 64) for name in ("zstd", "delta:0123"))
    offer = ReleaseOffer("policy", b"{}", b"x" * 64, encodings)
    sent: list[ReleaseOffer] = []
    desk = ReleaseDesk(
        tmp_path / "metrics.jsonl",
        Metrics(tmp_path / "metrics.jsonl"),
        lambda peer, parts: sent.append(wire.unpack(parts).message),  # type: ignore[arg-type]
    )
    counter = SimpleNamespace(
        newest_seq=1,
        answer_query=lambda *_: offer,
        outrun_by=lambda _: None,
        is_asked=lambda _: True,
    )
    work = SimpleNamespace(publisher_of=lambda _: counter, iteration=1, note="")
    query = ReleaseQuery("bench-0", "policy", "p", 0)
    for number, features in enumerate(((), ("zstd",), ("delta", "zstd", "of tomorrow"))):
        named = frozenset((*features, wire.ANSWERS))
        desk.on_query(b"%d" % number, query, work, named)  # type: ignore[arg-type]
    desk.published(1, offer)
    desk.send_offers()
    kinds = [[kind_of(e.id) for e in one.encodings] for one in sent]
    assert kinds == [[], ["zstd"], ["zstd", "delta"]] * 2, "in answers and in offers unasked"
    desk.on_query(b"old", query, work, frozenset(KINDS))  # type: ignore[arg-type]
    count = len(sent)
    desk.published(1, offer)
    desk.send_offers()
    assert len(sent) == count + 3, (
        "one that may not know all of a manifest gets its own when it asks"
    )
