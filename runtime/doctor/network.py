"""The way to the trainer: does each address answer, how soon, over what kind of link. Sends no data."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from urllib.parse import urlsplit

import psutil

from runtime.config import RobotConfig
from runtime.findings import Line

TRIES = 3
TIMEOUT_S = 1.0
SLOW_S = 0.020
GIGABIT = 1000


def network(config: RobotConfig) -> list[Line]:
    """One line a socket address, one for each network interface on the way."""
    if not config.link.enabled:
        return [Line("network", "ok", "no link configured")]
    link = config.link
    named = {
        "frames": link.frames,
        "episodes": link.episodes,
        "weights": link.weights,
        "health": link.health,
    }
    lines = [_address(what, address) for what, address in named.items()]
    hosts = {urlsplit(address).hostname for address in named.values()} - {None}
    return lines + [line for host in sorted(hosts, key=str) for line in _interface(str(host))]


def _address(what: str, address: str) -> Line:
    """Round trips of a TCP connect: the address resolves, is routed to, and something listens."""
    parts = urlsplit(address)
    if parts.scheme != "tcp":
        return Line(f"link {what}", "ok", f"{address}: not a network address")
    if not parts.hostname or not parts.port:
        return Line(f"link {what}", "fail", f"{address} is no address", "tcp://<host>:<port>")
    trips = []
    try:
        for _ in range(TRIES):
            began_s = time.monotonic()
            with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S):
                trips.append(time.monotonic() - began_s)
    except OSError as error:
        why = error.strerror or str(error)
        return Line(
            f"link {what}",
            "warn",
            f"{address}: {why}",
            "start robot-trainer serve there, or mend the address; without it episodes wait in the spool",
        )
    best_s = min(trips)
    return Line.advised(
        f"link {what}",
        best_s < SLOW_S,
        f"{address} answers in {best_s * 1e3:.2f} ms",
        "a wired network: releases and live frames wait for each round trip",
    )


def _interface(host: str) -> list[Line]:
    """MTU and speed of the interface that packets to `host` leave by (no packet is sent)."""
    with contextlib.suppress(OSError, ValueError):
        family, _, _, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)
            mine = str(probe.getsockname()[0])
        if ipaddress.ip_address(mine).is_loopback:
            return []
        for name, addresses in psutil.net_if_addrs().items():
            if any(address.address == mine for address in addresses):
                found = psutil.net_if_stats()[name]
                speed = f"{found.speed} Mbit/s" if found.speed else "speed not known"
                return [
                    Line.advised(
                        f"network {name}",
                        not 0 < found.speed < GIGABIT,
                        f"to {host}: MTU {found.mtu}, {speed}",
                        "640x480 RGB-D fills 100 Mbit/s quickly: use a gigabit link",
                    )
                ]
    return []
