"""A peer for comparison only, in processes of its own: weights by torch.save over gRPC, as LeRobot's learner
sends them to its actor. Imports nothing of ours, and nothing of ours imports it.

With LeRobot 0.4.4 and grpcio on the path its own learner service, queue, receiver and loading run; without,
the same calls are made by hand. It says which. JSON lines on stdout; the learner takes "push N" on stdin.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from queue import Empty, Queue
from types import SimpleNamespace
from typing import Any

import grpc
import torch
from safetensors.torch import load_file

HOST = "127.0.0.1"
CHUNK_BYTES = 2 * 1024 * 1024  # LeRobot's
CALL = "/entracte.benchmark.Peer/StreamParameters"
OPTIONS = [
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
]

try:
    from lerobot.rl.actor import learner_service_client, receive_policy, update_policy_parameters
    from lerobot.rl.learner import push_actor_policy_to_queue
    from lerobot.rl.learner_service import LearnerService
    from lerobot.transport import services_pb2_grpc

    KIND = "LeRobot 0.4.4's own code"
except ImportError as error:
    LearnerService = None
    KIND = f"re-created by hand ({error})"


class Actor(torch.nn.Module):
    """Holds the tensors that are pushed; a parameter's name can't have a dot or a slash, so those are `_`."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(_name(name), torch.nn.Parameter(tensor.clone(), False))


class TimedQueue(Queue[bytes]):
    """Notes when something was put in."""

    put_s = 0.0
    nbytes = 0

    def put(self, item: bytes, *rest: Any) -> None:
        self.put_s, self.nbytes = time.monotonic(), len(item)
        super().put(item, *rest)


def _name(name: str) -> str:
    return name.replace(".", "_").replace("/", "_")


def _say(**found: object) -> None:
    print(json.dumps(found), flush=True)


def learn(weights: Path) -> None:
    policy = SimpleNamespace(actor=Actor(load_file(weights / "0.safetensors")))
    waiting: Queue[bytes] = Queue()
    stop = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=OPTIONS)
    if LearnerService is not None:
        service = LearnerService(
            shutdown_event=stop,
            parameters_queue=waiting,
            seconds_between_pushes=0.0,  # LeRobot's default of 4 s would only be waiting
            transition_queue=Queue(),
            interaction_message_queue=Queue(),
        )
        services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    else:
        handler = grpc.unary_stream_rpc_method_handler(lambda *_: _stream(waiting, stop))
        name, method = CALL.strip("/").split("/")
        handlers = grpc.method_handlers_generic_handler(name, {method: handler})
        server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    _say(port=port, kind=KIND)
    for line in sys.stdin:
        number = line.split()[1]
        tensors = load_file(weights / f"{number}.safetensors")
        policy.actor.load_state_dict({_name(n): t for n, t in tensors.items()})
        begin_s = time.monotonic()
        if LearnerService is not None:
            push_actor_policy_to_queue(waiting, policy)
        else:
            waiting.put(_saved({"policy": policy.actor.state_dict()}))
        _say(begin_s=begin_s, published_s=time.monotonic())
    stop.set()
    server.stop(0)


def act(address: str, weights: Path) -> None:
    policy = SimpleNamespace(actor=Actor(load_file(weights / "0.safetensors")))
    arrived, stop = TimedQueue(), threading.Event()
    host, _, port = address.rpartition(":")
    if LearnerService is not None:
        stub, channel = learner_service_client(host=host, port=int(port))
        settings = SimpleNamespace(
            policy=SimpleNamespace(concurrency=SimpleNamespace(actor="threads"))
        )
        arguments = (settings, arrived, stop, stub, channel)
        threading.Thread(target=receive_policy, args=arguments, daemon=True).start()
    else:
        channel = grpc.insecure_channel(address, options=OPTIONS)
        threading.Thread(target=_receive, args=(channel, arrived), daemon=True).start()
    _say(ready=True, kind=KIND)
    while True:
        if arrived.empty():
            time.sleep(0.0005)
            continue
        begin_s = time.monotonic()
        if LearnerService is not None:
            update_policy_parameters(policy, arrived, torch.device("cpu"))
        else:
            _load(policy, arrived)
        done_s = time.monotonic()
        _say(
            arrived_s=arrived.put_s, loaded_s=done_s, idle_s=done_s - begin_s, nbytes=arrived.nbytes
        )


# By hand, where LeRobot is absent.


def _saved(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _stream(waiting: Queue[bytes], stop: threading.Event) -> Iterator[bytes]:
    while not stop.is_set():
        try:
            data = waiting.get(timeout=0.001)
        except Empty:
            continue
        yield len(data).to_bytes(8, "little")
        for at in range(0, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]


def _receive(channel: grpc.Channel, arrived: Queue[bytes]) -> None:
    parts = channel.unary_stream(CALL)(b"")
    for size in parts:
        data = bytearray()
        while len(data) < int.from_bytes(size, "little"):
            data += next(parts)
        arrived.put(bytes(data))


def _load(policy: SimpleNamespace, arrived: Queue[bytes]) -> None:
    state = torch.load(io.BytesIO(arrived.get()), weights_only=True)
    policy.actor.load_state_dict(state["policy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("end", choices=("learner", "actor"))
    parser.add_argument("--weights", type=Path, required=True, help="N.safetensors of push N")
    parser.add_argument("--address", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.end == "learner":
        learn(given.weights)
    else:
        act(given.address, given.weights)


if __name__ == "__main__":
    main()
