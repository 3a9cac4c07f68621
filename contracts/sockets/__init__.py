"""The one door to the network: ZeroMQ sockets with safe options, CURVE off loopback, and who is let in."""

from contracts.sockets.addresses import bindable, is_local
from contracts.sockets.admission import AllowList, Limits, Pass
from contracts.sockets.curve import Client, KeyPair
from contracts.sockets.doorman import Doorman, Visitor
from contracts.sockets.opening import bind_anew, connect_again, connect_anew, open_socket

__all__ = [
    "AllowList",
    "Client",
    "Doorman",
    "KeyPair",
    "Limits",
    "Pass",
    "Visitor",
    "bind_anew",
    "bindable",
    "connect_again",
    "connect_anew",
    "is_local",
    "open_socket",
]
