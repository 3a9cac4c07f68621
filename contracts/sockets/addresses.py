"""Which addresses are this machine's own, and what may be bound: one interface, never all of them."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from contracts.errors import ConfigError

WITHOUT_NETWORK = ("ipc://", "inproc://")


def is_local(address: str) -> bool:
    """True for loopback tcp, ipc and inproc addresses."""
    if address.startswith(WITHOUT_NETWORK):
        return True
    host, _ = split(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bindable(address: str) -> str:
    """The address to bind: an interface's name is replaced by its address, so that what was checked is what
    is bound. Raises `ConfigError` for all interfaces at once, a foreign name or an unknown interface."""
    if address.startswith(WITHOUT_NETWORK):
        return address
    host, port = split(address)
    if host in ("*", "") or _unspecified(host):
        raise ConfigError(
            f"{address} would listen on every network of this machine",
            expected="the interface or address that the robots are reached by",
            remedy=f"one of {', '.join(sorted(_interfaces()))}: tcp://<interface>:{port}",
        )
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost":
            return f"tcp://127.0.0.1:{port}"
        found = _address_of(host)
    return f"tcp://[{found}]:{port}" if found.version == 6 else f"tcp://{found}:{port}"


def split(address: str) -> tuple[str, str]:
    """(host, port) of tcp://host:port, IPv6 brackets off. Raises `ConfigError`."""
    scheme, _, rest = address.partition("://")
    host, colon, port = rest.rpartition(":")
    if scheme != "tcp" or not colon or not (port.isdigit() or port == "*"):
        raise ConfigError("not an address", expected="tcp://<host>:<port>", found=address)
    return host.removeprefix("[").removesuffix("]"), port


def _unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _address_of(interface: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Its first IPv4 address, else its first IPv6 address that is not of the link alone."""
    interfaces = _interfaces()
    if interface not in interfaces:
        raise ConfigError(
            f"no network interface '{interface}'",
            expected=", ".join(sorted(interfaces)),
            remedy="name the interface that robots are reached by, or its address",
        )
    found = sorted(interfaces[interface], key=lambda one: one.version)
    if not found:
        raise ConfigError(f"network interface '{interface}' has no address", remedy="is it up?")
    return found[0]


def _interfaces() -> dict[str, list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    found: dict[str, list[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {}
    for name, entries in psutil.net_if_addrs().items():
        inet = [e.address for e in entries if e.family in (socket.AF_INET, socket.AF_INET6)]
        parsed = [ipaddress.ip_address(each.partition("%")[0]) for each in inet]
        found[name] = [one for one in parsed if not one.is_link_local]
    return found
