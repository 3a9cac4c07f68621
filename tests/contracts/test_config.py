"""Wrong configuration is one clear sentence."""

from __future__ import annotations

import msgspec
import pytest

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError


class Loop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate_hz: float = 10.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    loop: Loop = Loop()
    name: str = "x"


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    tree = parse("loop: {rate_hz: 10.0}\nname: arm", "f.yaml")
    changed = apply_overrides(tree, ["loop.rate_hz=30.0", "name=other"])
    assert convert(changed, Config, "f.yaml") == Config(Loop(30.0), "other")
    assert tree == {"loop": {"rate_hz": 10.0}, "name": "arm"}


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rate_hz'"):
        convert({"loop": {"rate_hertz": 3.0}}, Config, "f.yaml")


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"loop": {"rate_hz": "fast"}}, r"loop\.rate_hz"),
        ({"loop": 3}, "loop"),
        ({"nam": 1}, "name"),
    ],
)
def test_wrong_types_name_the_place(tree: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        convert(tree, Config, "f.yaml")


@pytest.mark.parametrize("override", ["loop.rate_hz", "=3", "name.deep=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        apply_overrides({"name": "x"}, [override])


@pytest.mark.parametrize("text", ["- 1\n- 2", "a: [", "3"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml"):
        parse(text, "f.yaml")
