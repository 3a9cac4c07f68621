"""The live stream: newest wins, drops are counted, and what says which episode it is of is never dropped."""

from __future__ import annotations

from runtime.link_episodes import LiveStream, Parts


class Cable:
    def __init__(self) -> None:
        self.open, self.sent = False, list[bytes]()

    def send(self, parts: Parts) -> bool:
        if self.open:
            self.sent.append(bytes(parts[0]))
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
