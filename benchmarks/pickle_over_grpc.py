"""A peer for comparison only, in a process of its own: raw arrays, pickled, over gRPC, as LeRobot's
asynchronous inference sends observations. NOTHING else in this repository pickles; nothing imports this file.

Run by a Python that has LeRobot and grpcio, it uses LeRobot's own messages, chunking and stubs. Run by any
other it makes the same calls by hand: one client-streaming call an observation, chunks of 2 MB, pickled and
unpickled. It says which. Needs grpcio and numpy, imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np

CHUNK_BYTES = 2 * 1024 * 1024
QUIET_S = 5.0
HOST = "127.0.0.1"
OPTIONS = [
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
]
CALL = "/entracte.benchmark.Peer/SendObservations"

try:
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import receive_bytes_in_chunks, send_bytes_in_chunks
except ImportError:
    services_pb2 = None


class Receiver:
    """Takes observations apart again and counts them."""

    def __init__(self) -> None:
        self.frames = self.nbytes = 0
        self.began_s = self.cpu_s = self.heard_s = 0.0
        self._shutdown = threading.Event()

    def begin(self) -> None:
        """Before the first: all of one client's calls come in, none of them may be missed in the CPU time."""
        if not self.began_s:
            self.began_s, self.cpu_s = time.monotonic(), time.process_time()

    def take(self, data: bytes) -> None:
        observation = pickle.loads(data)  # noqa: S301 - what the peer does
        assert all(isinstance(value, np.ndarray) for value in observation["pictures"].values())
        self.frames, self.nbytes, self.heard_s = (
            self.frames + 1,
            self.nbytes + len(data),
            time.monotonic(),
        )

    # The two ways in which a call arrives.

    def SendObservations(self, request_iterator: Iterator[Any], context: Any) -> Any:
        self.begin()
        self.take(receive_bytes_in_chunks(request_iterator, None, self._shutdown, ""))
        return services_pb2.Empty()

    def by_hand(self, request_iterator: Iterator[bytes], context: Any) -> bytes:
        self.begin()
        self.take(b"".join(request_iterator))
        return b""


def receive() -> dict[str, float]:
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=OPTIONS)
    if services_pb2 is not None:

        class Servicer(services_pb2_grpc.AsyncInferenceServicer):  # type: ignore[misc]
            SendObservations = staticmethod(receiver.SendObservations)

        services_pb2_grpc.add_AsyncInferenceServicer_to_server(Servicer(), server)
    else:
        method = grpc.stream_unary_rpc_method_handler(receiver.by_hand)
        service, name = CALL.strip("/").split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {name: method}),)
        )
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    print(json.dumps({"address": f"{HOST}:{port}", "as": _kind()}), flush=True)
    give_up_s = time.monotonic() + 60.0
    while time.monotonic() < (receiver.heard_s + QUIET_S if receiver.frames else give_up_s):
        time.sleep(0.05)
    found = {
        "frames": receiver.frames,
        "bytes": receiver.nbytes,
        "wall_s": receiver.heard_s - receiver.began_s,
        "cpu_s": time.process_time() - receiver.cpu_s,
    }
    server.stop(0)
    return found


def send(address: str, pictures: str, seconds: float) -> dict[str, float]:
    """`pictures`: an .npz of arrays named "<moment>/<camera>.<colour or depth>"."""
    moments: dict[str, dict[str, np.ndarray]] = {}
    with np.load(pictures, allow_pickle=False) as file:
        for name in file.files:
            moment, _, buffer = name.partition("/")
            moments.setdefault(moment, {})[buffer] = file[name]
    pool = list(moments.values())
    channel = grpc.insecure_channel(address, options=OPTIONS)
    grpc.channel_ready_future(channel).result(timeout=30)
    if services_pb2 is not None:
        call = services_pb2_grpc.AsyncInferenceStub(channel).SendObservations
    else:
        call = channel.stream_unary(CALL)
    began_s, cpu_s, number, nbytes = time.monotonic(), time.process_time(), 0, 0
    while time.monotonic() - began_s < seconds:
        observation = {
            "timestep": number,
            "timestamp": time.time(),
            "pictures": pool[number % len(pool)],
        }
        data = pickle.dumps(observation)
        call(_chunks(data))
        number, nbytes = number + 1, nbytes + len(data)
    found = {
        "frames": number,
        "bytes": nbytes,
        "wall_s": time.monotonic() - began_s,
        "cpu_s": time.process_time() - cpu_s,
    }
    channel.close()
    return found


def _chunks(data: bytes) -> Iterator[Any]:
    if services_pb2 is not None:
        yield from send_bytes_in_chunks(data, services_pb2.Observation)
        return
    for at in range(0, len(data), CHUNK_BYTES):
        yield data[at : at + CHUNK_BYTES]


def _kind() -> str:
    return "LeRobot's own transport" if services_pb2 is not None else "re-created by hand"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("end", choices=("send", "receive"))
    parser.add_argument("--address", default="")
    parser.add_argument("--pictures", default="")
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    done = send(given.address, given.pictures, given.seconds) if given.end == "send" else receive()
    print(json.dumps(done))


if __name__ == "__main__":
    main()
