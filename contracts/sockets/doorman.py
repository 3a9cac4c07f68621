"""Stands before the sockets that a program binds: who is let in, how much each may bring, who is cut off.

A thread answers libzmq's question about every CURVE handshake (ZAP, https://rfc.zeromq.org/spec/27/), follows
the allow-list, and closes the TCP connection of a peer that was revoked, floods, or fills memory. libzmq asks
only once per connection and bounds whole messages only, so both are done from outside: by file descriptor.
"""

from __future__ import annotations

import contextlib
import itertools
import socket as tcp
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from contracts.errors import EntracteError
from contracts.sockets.admission import UNKNOWN, Allowance, AllowList, Limits
from contracts.sockets.curve import KeyPair
from contracts.sockets.descriptors import borrowed, peer_of, received

ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_PARTS = 6
DOMAIN = b"entracte"
KEY_PROPERTY = "X-Key"
REFUSED = b"300"
"""ZAP's temporary failure. A libzmq client that is told 400 never tries again: a robot that is enrolled a
minute later would stay outside until its program is started anew."""
LOOK_S = 0.25
"""How often the allow-list's file is looked at and memory is counted: a revocation bites within it."""
PATIENCE_MS = 100
HELLO_BYTES = 400
"""A CURVE peer that has sent so much has at least tried to prove its key; of those that said nothing yet, the
others go first."""
PART_OVERHEAD, BOX_OVERHEAD = 9, 39
"""Bytes that ZMTP frames a part with at most, and that CURVE boxes it in (33, rounded up)."""
IDLE_BYTES_S = 128
"""Heartbeats, at most."""
_FAILED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "no handshake",
}
_REFUSED_BY_KEY = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | _REFUSED_BY_KEY
_EVENTS |= sum(_FAILED)
UNHEARD = "ended unheard"
"""What came and went without a message: libzmq tells of no failure where it refuses another program, or what
is older than ZMTP 3. A robot's own connection that had nothing to say is among them."""


@dataclass(frozen=True)
class Visitor:
    """Where a message came from. `name`: the robot whose key it is, "" on a plain socket; `key` likewise."""

    descriptor: int
    name: str = ""
    key: str = ""

    def may_be(self, robot_id: str) -> bool:
        """Whether it may speak as that robot."""
        return not self.name or self.name == robot_id


@dataclass
class _Connection:
    """`delivered`: bytes of the messages that were taken from it, overhead included. `overbooked`: by how
    much that is known to be too many; of the doorman's thread. `monitor`: which socket's told of it, None
    where its messages were heard first."""

    address: object
    since_s: float
    key: str = ""
    delivered: int = 0
    heard: bool = False
    overbooked: float = 0.0
    monitor: object = None

    def held(self, received: int, now_s: float) -> float:
        """Bytes that came from it and were not delivered yet, never too many."""
        booked = self.delivered + IDLE_BYTES_S * (now_s - self.since_s)
        self.overbooked = max(self.overbooked, booked - received)
        return received - (booked - self.overbooked)


@dataclass
class _Followed:
    """The allow-list and the stamp of the file that it was read from."""

    allowed: AllowList
    stamp: object = field(default=None)


class Doorman:
    """Before the sockets of one context. `guard` each, `start`, `admit` every message, `close` at the end.

    Without `keys` nobody is asked for a key (loopback), limits hold all the same. `counts` says what was
    refused and why; each of its keys is written by one thread.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        keys: KeyPair | None = None,
        *,
        load: Callable[[], AllowList] = AllowList,
        stamp: Callable[[], object] = lambda: None,
        first_use: Callable[[str], None] = lambda key: None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`load` reads the allow-list, `stamp` changes when its file does. `first_use` is told of a key that
        replaces another, when it is first let in. Raises `EntracteError` where the context has a doorman."""
        self._context, self._keys, self._limits = context, keys, limits or Limits()
        self._load, self._stamp, self._first_use = load, stamp, first_use
        self._clock, self._unix_clock = clock, unix_clock
        self._list = _Followed(load(), stamp())
        self.counts: Counter[str] = Counter()
        self.last_refused = ""
        self._heard = self._ended = self._explained = 0
        self._connections: dict[int, _Connection] = {}
        self._allowances: dict[object, Allowance] = {}
        self._resting: dict[str, float] = {}
        self._to_cut: deque[tuple[int, str]] = deque()
        self._monitors: list[zmq.Socket[bytes]] = []
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._stand, name="doorman", daemon=True)
        self._zap: zmq.Socket[bytes] | None = None
        if keys is not None:
            self._zap = context.socket(zmq.ROUTER)
            self._zap.linger = 0
            try:
                self._zap.bind(ZAP_ADDRESS)
            except zmq.ZMQError as error:
                self._zap.close()
                raise EntracteError("this context has a doorman", found=str(error)) from error

    @property
    def encrypts(self) -> bool:
        return self._keys is not None

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Before `socket` is bound: `open_socket` calls this. Not after `start`."""
        if self._keys is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            # Were nobody here to be asked, libzmq would let everybody in.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        address = f"inproc://doorman-{id(self)}-{next(self._numbers)}"
        socket.monitor(address, _EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = 0  # a bounded one would stop libzmq's I/O thread when it is full
        monitor.connect(address)
        self._monitors.append(monitor)

    def start(self) -> None:
        self._thread.start()

    @property
    def standing(self) -> bool:
        """False after its thread ended by an error: nobody new is let in then, and nobody is cut off."""
        return self._stop.is_set() or self._thread.is_alive()

    def close(self) -> None:
        """After the guarded sockets were closed, before the context ends."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for socket in [*self._monitors, *([self._zap] if self._zap else [])]:
            socket.close()

    # In the thread that receives.

    def admit(self, frames: Sequence[zmq.Frame]) -> Visitor | None:
        """Who sent this message; None (and counted) where it may not pass. Call it for every message."""
        now_s = self._clock()
        nbytes = sum(len(frame) for frame in frames)
        # The frame in front is the router's own.
        descriptor = int(frames[-1].get(zmq.SRCFD))
        connection = self._connections.get(descriptor)
        if connection is None:
            connection = self._connections[descriptor] = _Connection(peer_of(descriptor), now_s)
        self._heard += not connection.heard
        connection.heard = True
        overhead = PART_OVERHEAD + (BOX_OVERHEAD if self.encrypts else 0)
        connection.delivered += nbytes + overhead * len(frames)
        visitor = Visitor(descriptor)
        if self._keys is not None:
            found = self._identified(descriptor, frames[-1])
            if found is None:
                return None
            visitor, connection.key = found, found.key
        return visitor if self._within_rate(visitor, nbytes, now_s) else None

    def refuse(self, visitor: Visitor, reason: str) -> None:
        """Count a message that the receiver turned down, as one of another robot's id."""
        self.counts[reason] += 1
        self.last_refused = f"{visitor.name or 'a peer'}: {reason}"

    def _identified(self, descriptor: int, frame: zmq.Frame) -> Visitor | None:
        """Valid now, not only when it shook hands: messages may have waited since."""
        try:
            key = str(frame.get(KEY_PROPERTY))
        except zmq.ZMQError:
            key = ""
        found = self._list.allowed.find(key)
        if found is None or found.problem(self._unix_clock()):
            self.counts["after revocation"] += 1
            self._to_cut.append((descriptor, "cut off"))
            return None
        return Visitor(descriptor, found.name, key)

    def _within_rate(self, visitor: Visitor, nbytes: int, now_s: float) -> bool:
        who = visitor.key or visitor.descriptor
        allowance = self._allowances.get(who)
        if allowance is None:
            if len(self._allowances) > 4 * self._limits.silent:
                self._allowances.clear()
            allowance = self._allowances[who] = Allowance(self._limits, now_s)
        if allowance.take(nbytes, now_s):
            return True
        self.counts["over rate"] += 1
        if allowance.flooding and now_s >= self._resting.get(visitor.key, 0.0):
            self._resting[visitor.key] = now_s + self._limits.rest_s
            self._to_cut.append((visitor.descriptor, "cut for flooding"))
            allowance.forgive()
        return False

    # In the doorman's own thread.

    def _stand(self) -> None:
        poller = zmq.Poller()
        for socket in [*self._monitors, *([self._zap] if self._zap else [])]:
            poller.register(socket, zmq.POLLIN)
        looked_s = self._clock()
        while not self._stop.is_set():
            try:
                ready = dict(poller.poll(PATIENCE_MS))
                for monitor in self._monitors:
                    if monitor in ready:
                        self._follow(monitor)
                if self._zap is not None and self._zap in ready:
                    self._answer(self._zap)
            except zmq.ContextTerminated:
                return
            now_s = self._clock()
            while self._to_cut:
                self._cut(*self._to_cut.popleft())
            if now_s - looked_s >= LOOK_S:
                looked_s = now_s
                self._look(now_s)

    def _follow(self, monitor: zmq.Socket[bytes]) -> None:
        """Keep the list of open connections. Handshakes that failed are counted; who was refused for its key
        is counted where it was asked for."""
        for _ in range(256):
            try:
                event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            kind, descriptor = event["event"], event["value"]
            if kind in _FAILED or kind == _REFUSED_BY_KEY:
                self._explained += 1
                if kind in _FAILED:
                    self.counts[_FAILED[kind]] += 1
            elif kind == zmq.EVENT_ACCEPTED:
                self.counts["connections"] += 1
                self._begun(descriptor, monitor)
            else:
                ended = self._connections.get(descriptor)
                if ended is not None and ended.monitor is monitor:
                    del self._connections[descriptor]
                self._ended += kind == zmq.EVENT_DISCONNECTED

    def _begun(self, descriptor: int, monitor: object) -> None:
        """Sockets tell apart: what one tells late, another's connection may have the descriptor of by now."""
        known, address = self._connections.get(descriptor), peer_of(descriptor)
        if known is None or known.address != address:
            self._connections[descriptor] = _Connection(address, self._clock(), monitor=monitor)
        elif known.monitor is None:
            known.monitor = monitor

    def _count_unheard(self) -> None:
        """By numbers alone: failures are told without a descriptor, and descriptors are taken again at once.
        A failure is told before the end that it explains."""
        open_now = sum(connection.heard for connection in list(self._connections.values()))
        more = self._ended - (self._heard - open_now) - self._explained - self.counts[UNHEARD]
        if more > 0:
            self.counts[UNHEARD] += more

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        for _ in range(256):
            try:
                caller, _, *request = zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(request) < ZAP_PARTS:
                continue
            version, request_id, domain, address, _identity, mechanism, *credentials = request
            reason, name, key = self._judge(domain, mechanism, credentials)
            metadata = _property(KEY_PROPERTY, key.encode()) if not reason else b""
            if reason:
                self.counts[reason] += 1
                self.last_refused = f"{address.decode(errors='replace')}: {reason}"
            else:
                self.counts["let in"] += 1
            status = [REFUSED, reason.encode(), b""] if reason else [b"200", b"", name.encode()]
            zap.send_multipart([caller, b"", version, request_id, *status, metadata])

    def _judge(
        self, domain: bytes, mechanism: bytes, credentials: Sequence[bytes]
    ) -> tuple[str, str, str]:
        """(why not, whose key, the key)."""
        if domain != DOMAIN or mechanism != b"CURVE" or len(credentials) != 1:
            return "protocol", "", ""
        if len(credentials[0]) != 32:
            return "protocol", "", ""
        key = z85.encode(credentials[0]).decode("ascii")
        found = self._list.allowed.find(key)
        problem = UNKNOWN if found is None else found.problem(self._unix_clock())
        if not problem and self._resting.get(key, 0.0) > self._clock():
            problem = "resting"
        if problem or found is None:
            return problem, "", key
        if found.replaces:
            with contextlib.suppress(EntracteError, OSError):  # told again when it comes again
                self._first_use(key)
        return "", found.name, key

    def _look(self, now_s: float) -> None:
        """Read the allow-list again if it changed, then look at every connection."""
        changed = self._reload()
        unix_s, limits = self._unix_clock(), self._limits
        held: dict[object, list[tuple[float, int]]] = {}
        silent: list[tuple[bool, float, int]] = []
        for descriptor, connection in list(self._connections.items()):
            key = connection.key
            address = connection.address
            if connection.monitor is None and (address is None or peer_of(descriptor) != address):
                del self._connections[descriptor]  # its last words were heard after its end
                continue
            if self._keys is not None and (
                self._list.allowed.problem(key, unix_s) if key else changed
            ):
                # One that has not spoken yet may be anybody's: it comes again and is asked anew.
                self._cut(descriptor, "cut off")
                continue
            came = received(descriptor, address)
            # Those who never spoke are one peer: nobody knows how many they are.
            whose = key or (descriptor if connection.heard else "")
            held.setdefault(whose, []).append((connection.held(came, now_s), descriptor))
            if not connection.heard:
                silent.append((came >= HELLO_BYTES, connection.since_s, descriptor))
        for of_one in held.values():
            total = sum(nbytes for nbytes, _ in of_one)
            for nbytes, descriptor in sorted(of_one, reverse=True):
                if total > limits.held_bytes:
                    self._cut(descriptor, "cut for memory")
                    total -= nbytes
        for _, _, descriptor in sorted(silent)[: max(0, len(silent) - limits.silent)]:
            self._cut(descriptor, "cut for silence")
        self._bound_connections()
        self._count_unheard()

    def _bound_connections(self) -> None:
        """Of one key, the oldest go: a robot that comes again may have left some half open."""
        of_key: dict[str, list[tuple[float, int]]] = {}
        for descriptor, connection in list(self._connections.items()):
            if connection.key:
                of_key.setdefault(connection.key, []).append((connection.since_s, descriptor))
        for of_one in of_key.values():
            for _, descriptor in sorted(of_one)[: max(0, len(of_one) - self._limits.connections)]:
                self._cut(descriptor, "cut for connections")

    def _reload(self) -> bool:
        stamp = self._stamp()
        if stamp == self._list.stamp:
            return False
        try:
            self._list = _Followed(self._load(), stamp)
        except (EntracteError, OSError) as error:  # the old one goes on
            self.last_refused = f"allow-list not read: {error}"
            return False
        self.counts["list read"] += 1
        return True

    def _cut(self, descriptor: int, why: str) -> None:
        """Close a TCP connection under libzmq, which takes it for the peer's leaving."""
        connection = self._connections.pop(descriptor, None)
        if connection is None:
            return
        with contextlib.suppress(OSError), borrowed(descriptor) as end:
            # The descriptor may be somebody else's by now.
            if connection.address is not None and end.getpeername() == connection.address:
                end.shutdown(tcp.SHUT_RDWR)
                self.counts[why] += 1
                self._explained += not connection.heard


def _property(name: str, value: bytes) -> bytes:
    """One property of ZMTP metadata."""
    return bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value
