"""What hw_configs/*.yaml says about people: keys, the web page, take-over, the live view."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from contracts.config import check_ranges
from contracts.errors import ConfigError


class OperatorSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`keys`: whether `robot-run` reads keys from its terminal.

    The page: `web`: whether it is served. `web_address`, `web_port` (0: any that is free): where; anywhere
    but on loopback people need the token of `token_file` (one line, 16 characters or more). `web_hosts`:
    names under which browsers may ask for it, beside the address itself. `picture_rate_hz`: most pictures a
    second and camera, `picture_width`: their most pixels across.

    Take-over: `teleoperator`: "keyboard" (jog by the terminal's keys or the page), "" for none, or a name of
    the entry-point group `entracte.teleoperators` with `teleoperator_options`. `jog_speed`: units a second.
    `match_within`: how near every joint of a leader must be to the arm's (in its unit) to take it over.
    `blend_s`: how long either side is faded in. `leader_timeout_s`: a leader that was read longer ago holds.

    `view`: whether a process feeds Rerun (extra `viewer`); `view_url`: of a viewer that listens there, a path
    that ends in .rrd, or "" for a viewer that is started here."""

    keys: bool = True
    web: bool = False
    web_address: str = "127.0.0.1"
    web_port: int = 8700
    web_hosts: tuple[str, ...] = ()
    token_file: str = ""
    picture_rate_hz: float = 10.0
    picture_width: int = 640
    teleoperator: str = "keyboard"
    teleoperator_options: dict[str, Any] = {}
    jog_speed: float = 15.0
    match_within: float = 8.0
    blend_s: float = 0.6
    leader_timeout_s: float = 0.3
    view: bool = False
    view_url: str = ""


def is_loopback(address: str) -> bool:
    """Whether nobody outside this machine can reach it."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check_operator(section: OperatorSection, source: str) -> None:
    """Values that make no sense, each a `ConfigError` of one sentence."""
    if section.web and not is_loopback(section.web_address) and not section.token_file:
        raise ConfigError(
            f"{source}: the operator's page on {section.web_address} is open to a network",
            expected="operator.token_file, or a loopback address",
            remedy="write a long random line into a file and name it, or use ssh -L",
        )
    check_ranges(
        f"{source}: operator.",
        (
            ("web_port", section.web_port, 0, 65535),
            ("picture_rate_hz", section.picture_rate_hz, 0.1, 60.0),
            ("picture_width", section.picture_width, 64, 4096),
            ("jog_speed", section.jog_speed, 0.1, 60.0),
            ("match_within", section.match_within, 0.1, 45.0),
            ("blend_s", section.blend_s, 0.0, 10.0),
            ("leader_timeout_s", section.leader_timeout_s, 0.05, 2.0),
        ),
    )
