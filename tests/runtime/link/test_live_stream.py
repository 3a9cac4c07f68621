"""The live stream: newest wins, drops are counted, what says which episode it is of is never dropped, and
with a picture go those that are changes to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_robot import episode, session_start

from contracts import images, live_video, wire
from contracts.files.log_to_dataset import read_episode
from contracts.messages import Step
from runtime.link.episodes import LiveStream, Parts, Recorder
from runtime.link.pictures import LiveColour
from runtime.link.spool import Spool


class Cable:
    def __init__(self) -> None:
        self.open, self.sent = False, list[bytes]()
        self.packets: list[wire.Packet] = []

    def send(self, parts: Parts) -> bool:
        if self.open:
            self.sent.append(bytes(parts[0]))
            if len(parts[0]) > 20:
                self.packets.append(wire.unpack([bytes(part) for part in parts]))
        return self.open


def test_the_newest_steps_and_every_boundary_arrive_after_a_stall() -> None:
    cable = Cable()
    live = LiveStream(cable.send, 4)
    live.push([b"session"], step=False)
    live.push([b"start"], step=False)
    for number in range(10):
        live.push([b"%d" % number])
    assert (live.waiting, live.dropped, live.sent) == (4, 8, 0)
    cable.open = True
    live.flush()
    assert cable.sent == [b"session", b"start", b"8", b"9"]
    assert (live.waiting, live.sent, live.bytes_sent) == (0, 4, 14)


def test_boundaries_alone_are_bounded_too() -> None:
    cable = Cable()
    live = LiveStream(cable.send, 3)
    for number in range(9):
        live.push([b"start %d" % number], step=False)
    cable.open = True
    live.flush()
    assert cable.sent == [b"start 6", b"start 7", b"start 8"] and live.dropped == 6


def test_what_follows_a_dropped_picture_goes_with_it() -> None:
    cable = Cable()
    live = LiveStream(cable.send, 5)
    live.push([b"start"], step=False)
    live.push([b"key"])
    live.push([b"p1"], follows=True)
    live.push([b"blind"], follows=None)
    live.push([b"key again"])
    assert live.dropped == 0
    live.push([b"p2"], follows=True)
    assert live.dropped == 2 and not live.broken, "the second group is whole"
    live.push([b"p3"], follows=True)
    live.push([b"end"], step=False)
    assert live.dropped == 3 and not live.broken, "the step without a picture was the oldest"
    live.push([b"p4"], follows=True)
    assert live.broken, "of the second group nothing is left"
    cable.open = True
    live.flush()
    assert cable.sent == [b"start", b"end"] and live.dropped == 7


HERE = [codec for codec in live_video.CODECS if live_video.encodes(codec)]
video = pytest.mark.skipif(not HERE, reason="this PyAV writes neither H.264 nor H.265")


class Rig:
    """The link's recorder with a live stream, and a trainer's eyes on what arrives."""

    def __init__(self, folder: Path, codec: str = "h264", capacity: int = 4) -> None:
        self.cable, self.wanted = Cable(), True
        self.cable.open = True
        self.live = LiveStream(self.cable.send, capacity)
        self.colour = LiveColour(codec, 18, lambda: self.wanted)
        spool = Spool(folder, 1 << 30)
        self.recorder = Recorder(spool, self.live, 95, colour=self.colour)
        self.recorder.take(wire.unpack(wire.pack(session_start())))

    def play(self, seq: int, steps: int = 12) -> None:
        for parts in episode(seq, steps=steps):
            self.recorder.take(wire.unpack(parts))

    @property
    def colours(self) -> list[tuple[str, bool]]:
        """(codec, whether it follows) of every picture that was sent."""
        found = []
        for one in self.cable.packets:
            if isinstance(one.message, Step):
                codec, data = one.descriptors["front.colour"].codec, one.data["front.colour"]
                found.append((codec, codec != images.JPEG and live_video.follows(data)))
        return found

    def seen(self) -> list[int]:
        """Steps whose picture could be decoded from what was sent, in order."""
        decoder, found = live_video.Decoder(), []
        for one in self.cable.packets:
            if isinstance(one.message, Step):
                buffer = one.descriptors["front.colour"]
                try:
                    decoder.decode(buffer.codec, one.data["front.colour"], buffer.shape)
                    found.append(one.message.index)
                except live_video.MissingPicture:
                    pass
        return found


@video
@pytest.mark.parametrize("codec", HERE)
def test_every_episode_begins_with_a_picture_that_stands_by_itself(tmp_path, codec) -> None:
    rig = Rig(tmp_path, codec)
    rig.play(1, steps=4)
    rig.play(2, steps=3)
    first, later = (codec, False), (codec, True)
    assert rig.colours == [first, later, later, later, first, later, later]
    assert rig.seen() == [0, 1, 2, 3, 0, 1, 2]


@video
def test_the_log_holds_every_picture_by_itself_whatever_is_streamed(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "video")
    rig.play(1)
    plain = Recorder(Spool(tmp_path / "plain", 1 << 30), None, 95)
    plain.take(wire.unpack(wire.pack(session_start())))
    for parts in episode(1):
        plain.take(wire.unpack(parts))
    logs = [found.spool.waiting[0].path for found in (rig.recorder, plain)]
    assert logs[0].read_bytes() == logs[1].read_bytes()
    assert read_episode(logs[0]).session.colour_codec == images.JPEG


@video
def test_after_a_stall_of_the_cable_all_that_is_sent_can_be_shown(tmp_path: Path) -> None:
    rig = Rig(tmp_path, capacity=5)
    rig.recorder.take(wire.unpack(next(iter(episode(1)))))
    steps = list(episode(1, steps=40))[1:-1]
    for index, parts in enumerate(steps):
        rig.cable.open = not 7 <= index < 29
        rig.recorder.take(wire.unpack(parts))
    sent = [one.message.index for one in rig.cable.packets if isinstance(one.message, Step)]
    assert rig.live.dropped == 40 - len(sent) > 0
    assert rig.seen() == sent, "nothing was sent that nobody can show"
    assert sent[:7] == list(range(7)) and sent[-1] == 39
    assert min(n for n in sent if n >= 7) >= 29 - 5, "what is old gave way to what is new"


@video
def test_a_trainer_that_reads_no_video_gets_jpeg_and_one_that_comes_back_a_whole_picture(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.wanted = False
    steps = list(episode(1, steps=9))
    for index, parts in enumerate(steps[:-1]):
        rig.wanted = 3 <= index - 1 < 5 or index - 1 >= 7
        rig.recorder.take(wire.unpack(parts))
    jpeg, first, later = ("jpeg", False), ("h264", False), ("h264", True)
    assert rig.colours == [jpeg, jpeg, jpeg, first, later, jpeg, jpeg, first, later]


@video
def test_pictures_that_are_no_video_stay_jpeg_and_why_is_said_once(tmp_path, capsys) -> None:
    rig = Rig(tmp_path, codec="av1")
    rig.play(1, steps=5)
    assert rig.colours == [("jpeg", False)] * 5
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "front.colour of the live stream stays JPEG" in said[0]


@video
def test_a_step_that_the_disk_took_late_is_in_the_video_once(tmp_path, monkeypatch) -> None:
    rig = Rig(tmp_path)
    packets = [wire.unpack(parts) for parts in episode(1, steps=6)]
    for packet in packets[:3]:
        rig.recorder.take(packet)
    log = rig.recorder._log
    assert log is not None
    real = log.append

    def full(_parts: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(log, "append", full)
    for _ in range(3):
        with pytest.raises(Exception, match="no space"):
            rig.recorder.take(packets[3])
    monkeypatch.setattr(log, "append", real)
    for packet in packets[3:]:
        rig.recorder.take(packet)
    assert rig.seen() == list(range(6))
