"""An episode that a person throws away never reaches the trainer, also when the link dies in between."""

from __future__ import annotations

from pathlib import Path

from tiny_robot import episode, session_start

from contracts import wire
from contracts.messages import EpisodeEnd
from runtime.link.episodes import Recorder
from runtime.link.spool import Spool


def _take(recorder: Recorder, seq: int, reason: str) -> None:
    *packets, _ = episode(seq, steps=3)
    for parts in [*packets, wire.pack(EpisodeEnd(seq, 3, reason))]:
        recorder.take(wire.unpack(parts))


def test_the_link_keeps_all_but_what_is_to_be_recorded_again(tmp_path: Path) -> None:
    recorder = Recorder(Spool(tmp_path, 1 << 30), None, 90)
    recorder.take(wire.unpack(wire.pack(session_start())))
    for seq, reason in enumerate(("time_limit", "rerecord", "operator")):
        _take(recorder, seq, reason)
    assert [item.episode_seq for item in recorder.spool.waiting] == [0, 2]
    assert not list(tmp_path.glob("*.part")), "nothing of it is left on the disk"


def test_a_link_that_died_on_the_last_word_throws_it_away_when_it_is_back(tmp_path: Path) -> None:
    recorder = Recorder(Spool(tmp_path, 1 << 30), None, 90)
    recorder.take(wire.unpack(wire.pack(session_start())))
    recorder._finish = lambda **_: None  # type: ignore[method-assign] # killed right before
    _take(recorder, 0, "rerecord")
    assert Recorder(Spool(tmp_path, 1 << 30), None, 90).spool.waiting == []
    assert not list(tmp_path.glob("*0000*"))
