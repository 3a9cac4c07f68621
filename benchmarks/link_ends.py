"""One end of a stream that goes as fast as it can, in a process of its own: `python -m benchmarks.link_ends`.

`ours` is the link's live path (typed header, `LiveStream`, checked at the other end), `zmq` is pyzmq moving
the same buffers and nothing else, both over CURVE or both plain. A receiver first prints its address, each
end in the end what it did, as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import zmq

from benchmarks import link_scene
from contracts import images, wire
from contracts.sockets import Client, Doorman, open_socket
from contracts.sockets.admission import AllowList, Limits, Pass
from contracts.sockets.curve import new_pair, pair_of
from runtime.link.episodes import LiveStream, Parts
from runtime.link.pictures import encode_step

HIGH_WATER_MARK = 4
QUIET_S = 5.0
ENDLESS = Limits(messages_per_s=1e6, bytes_per_s=1e12, held_bytes=1 << 34)


class Tally:
    """Frames, bytes, and what the process spent on them from the first to the last."""

    def __init__(self) -> None:
        self.frames = self.nbytes = 0
        self.began_s = self.cpu_s = 0.0

    def begin(self) -> None:
        self.began_s, self.cpu_s = time.monotonic(), time.process_time()

    def line(self, end_s: float | None = None) -> str:
        wall_s = (end_s or time.monotonic()) - self.began_s
        cpu_s = time.process_time() - self.cpu_s
        found = {"frames": self.frames, "bytes": self.nbytes, "wall_s": wall_s, "cpu_s": cpu_s}
        return json.dumps(found)


def send(options: argparse.Namespace) -> str:
    moments = link_scene.views()
    pool = [link_scene.encoded(moment) for moment in moments]
    raw = [wire.pack(link_scene.step(0, 0.0), link_scene.raw(moment)) for moment in moments]
    context = zmq.Context(io_threads=1)
    socket = _connected(context, options)
    live = LiveStream(lambda parts: _now(socket, parts), 4)
    tally, end_s = Tally(), time.monotonic() + options.seconds
    tally.begin()
    number = 0
    while time.monotonic() < end_s:
        if options.kind == "zmq":
            data = [data for _, data in pool[number % len(pool)]]
            socket.send_multipart([b"", *data], copy=False)
        else:
            if options.encode:
                parts = encode_step(wire.unpack(raw[number % len(raw)]), 95)
            else:
                message = link_scene.step(number, time.monotonic())
                parts = wire.pack(message, pool[number % len(pool)])
            while live.waiting and time.monotonic() < end_s:
                socket.poll(100, zmq.POLLOUT)
                live.flush()
            live.push(parts)
        number += 1
    tally.frames = number
    found = tally.line()
    socket.close(linger=2000)
    context.term()
    return found


def receive(options: argparse.Namespace) -> str:
    context = zmq.Context(io_threads=1)
    pair = new_pair()
    client = new_pair()
    socket, doorman = _bound(context, options, pair, client.public)
    address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    print(json.dumps({"address": address, "server": pair.public, "secret": client.secret}))
    sys.stdout.flush()
    tally, heard_s = Tally(), 0.0
    while socket.poll(int(1e3 * QUIET_S) if tally.frames else 30_000):
        frames = socket.recv_multipart(copy=False)
        if not tally.frames:
            tally.begin()
        heard_s = time.monotonic()
        if doorman is not None and doorman.admit(frames) is None:
            continue
        parts = [frame.buffer for frame in frames[1:]]
        if options.kind == "ours":
            packet = wire.unpack(parts)
            if options.encode:
                for name, descriptor in packet.descriptors.items():
                    images.decode(descriptor.codec, packet.data[name], descriptor.shape)
        tally.frames += 1
        tally.nbytes += sum(len(part) for part in parts)
    found = tally.line(heard_s)
    socket.close(linger=0)
    if doorman is not None:
        doorman.close()
    context.term()
    return found


def _now(socket: zmq.Socket[bytes], parts: Parts) -> bool:
    try:
        socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    return True


def _connected(context: zmq.Context[Any], options: argparse.Namespace) -> zmq.Socket[bytes]:
    if options.kind == "ours":
        keys = None if options.plain else Client(pair_of(options.secret), options.server)
        return open_socket(
            context,
            zmq.DEALER,
            connect=options.address,
            high_water_mark=HIGH_WATER_MARK,
            security=keys,
        )
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.sndhwm = HIGH_WATER_MARK
    if not options.plain:
        mine = pair_of(options.secret)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, mine.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, mine.secret)
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, options.server)
    socket.connect(options.address)
    return socket


def _bound(
    context: zmq.Context[Any], options: argparse.Namespace, pair: Any, client: str
) -> tuple[zmq.Socket[bytes], Doorman | None]:
    anywhere = "tcp://127.0.0.1:0"
    if options.kind == "ours":
        passes = AllowList([Pass(name="bench", key=client, enrolled_unix_s=0.0)])
        doorman = Doorman(
            context, None if options.plain else pair, load=lambda: passes, limits=ENDLESS
        )
        socket = open_socket(
            context, zmq.ROUTER, bind=anywhere, high_water_mark=16, security=doorman
        )
        doorman.start()
        return socket, doorman
    socket = context.socket(zmq.ROUTER)
    socket.rcvhwm = 16
    if not options.plain:
        socket.curve_server = True
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
    socket.bind(anywhere)
    return socket, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("ours", "zmq"))
    parser.add_argument("end", choices=("send", "receive"))
    parser.add_argument("--address", default="")
    parser.add_argument("--server", default="", help="the receiver's public key")
    parser.add_argument("--secret", default="", help="the sender's key, made for this run")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--plain", action="store_true", help="without CURVE")
    parser.add_argument("--encode", action="store_true", help="pictures are en- and decoded, too")
    options = parser.parse_args()
    print(send(options) if options.end == "send" else receive(options))


if __name__ == "__main__":
    main()
