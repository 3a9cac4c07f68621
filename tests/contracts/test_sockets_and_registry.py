"""No socket off loopback without keys; plug points name what there is."""

from __future__ import annotations

import pytest
import zmq

from contracts import registry
from contracts.errors import ConfigError, EntracteError
from contracts.sockets import is_local, open_socket


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:5", True),
        ("tcp://localhost:5", True),
        ("tcp://[::1]:5", True),
        ("ipc:///tmp/x", True),
        ("tcp://0.0.0.0:5", False),
        ("tcp://*:5", False),
        ("tcp://192.168.1.2:5", False),
    ],
)
def test_what_counts_as_local(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_other_addresses_are_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="every network"):
        open_socket(zmq.Context.instance(), zmq.PULL, bind="tcp://0.0.0.0:5799")


def test_a_port_in_use_is_named() -> None:
    context = zmq.Context.instance()
    first = open_socket(context, zmq.PULL, bind="tcp://127.0.0.1:*")
    address = first.getsockopt_string(zmq.LAST_ENDPOINT)
    with pytest.raises(EntracteError, match="cannot bind"):
        open_socket(context, zmq.PULL, bind=address)
    first.close()


def test_an_unknown_plug_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no arm named 'nonesuch'.*sim"):
        registry.load("arms", "nonesuch")
