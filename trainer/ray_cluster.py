"""Ray, for what one machine is too small for (extra `cluster`): the library, a cluster to work on, and what
finds room there."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from contracts.errors import ConfigError, MissingDependency

STARTS = 3
"""Tries on this machine: Ray gives its own processes 30 s, and a busy machine needs more."""
ANSWER_S = 10.0
"""How long a cluster's address may take to answer."""
OBJECT_STORE_BYTES = 100 << 20
"""On this machine alone, where a few words pass."""


def library(what: str, module: str = "ray") -> Any:
    """`ray`, with this module of it imported. Raises `MissingDependency`: `what` needs it."""
    try:
        import_module(module)
    except ImportError as error:
        named = "Ray Data" if module == "ray.data" else "Ray"
        raise MissingDependency(
            f"{what} needs {named}, which is absent",
            found=str(error),
            remedy="pip install 'entracte[cluster]'",
        ) from error
    return sys.modules["ray"]


@contextmanager
def cluster(ray: Any, address: str, **local: Any) -> Iterator[None]:
    """Work on the cluster at `address` ("auto": the one that this machine belongs to), or with "local" on
    this machine alone, which has `local` to give (`ray.init`). A connection that there is already is used.
    Raises `ConfigError` where no cluster answers."""
    if ray.is_initialized():
        yield
        return
    alone = address == "local"
    if not alone:
        _require_answer(address)
    for tries_left in reversed(range(STARTS if alone else 1)):
        try:
            own = local if alone else {}
            ray.init(address=address, log_to_driver=False, include_dashboard=False, **own)
            break
        except Exception as error:  # Ray raises bare ones, too
            ray.shutdown()
            if not tries_left:
                raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def this_machine(processors: int) -> dict[str, int]:
    """What this machine alone has to give (`cluster`), as told to Ray: all its processors, or so many as one
    task takes, if that is more, and little memory for what passes."""
    cores = max(processors, len(os.sched_getaffinity(0)))
    return {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES}


def machines(nodes: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Processors and GPUs of each machine that is there (`ray.nodes()`)."""
    return [
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in nodes
        if node["Alive"]
    ]


def room(nodes: Sequence[dict[str, Any]], processors: int, gpus: float) -> int:
    """How many tasks that take so much each the machines (`ray.nodes()`) hold at once: what one leaves over
    does not add up with what another does, nor do the rests of two GPUs."""
    count = 0
    for has_processors, has_gpus in machines(nodes):
        here = has_processors // processors
        if gpus:
            here = min(here, has_gpus * int(1 / gpus) if gpus <= 1 else int(has_gpus / gpus))
        count += here
    return count


def in_a_line(error: Exception) -> str:
    """Its kind and the first line of what it says: Ray adds a whole traceback."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _require_answer(address: str) -> None:
    """Ray itself goes on trying for ever. Raises `ConfigError`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # "auto": Ray knows at once
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    found = str(error).partition("\n")[0]
    if address == "local":
        remedy = "try again when it is less busy; Ray's logs are in /tmp/ray/session_latest/logs"
        return ConfigError("Ray can't start on this machine", found=found, remedy=remedy)
    remedy = "start one with ray start, or leave --address out to work on this machine"
    return ConfigError(f"no Ray cluster at {address}", found=found, remedy=remedy)
