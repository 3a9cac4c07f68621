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


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("loop: {rate_hz: 1.0}\nname: arm\nloop: {rate_hz: 2.0}\n", ("'loop'", "line 1", "line 3")),
        ("name: x\nloop:\n  rate_hz: 1.0\n  rate_hz: 2.0\n", ("'rate_hz'", "line 3", "line 4")),
    ],
)
def test_a_key_that_is_there_twice_is_named_with_both_lines(
    text: str, lines: tuple[str, ...]
) -> None:
    """YAML would silently take the last."""
    with pytest.raises(ConfigError, match=r"^f\.yaml: key '.*' is there twice") as said:
        parse(text, "f.yaml")
    assert all(word in str(said.value) for word in lines)


def test_what_is_merged_in_may_be_overridden() -> None:
    tree = parse("a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  x: 3\n", "f.yaml")
    assert tree["b"] == {"x": 3, "y": 2}
