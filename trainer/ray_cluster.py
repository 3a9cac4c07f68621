"""Ray, for what one machine is too small for (extra `cluster`): the library, and a cluster to work on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from contracts.errors import ConfigError, MissingDependency

STARTS = 3
"""Tries on this machine: Ray gives its own processes 30 s, and a busy machine needs more."""
ANSWER_S = 10.0
"""How long a cluster's address may take to answer."""


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
