"""Configuration: YAML mapping plus dotted overrides into frozen structs. Unknown keys are errors."""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import yaml

from contracts.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

MAX_VALUES = 100_000
"""Of one file, aliases followed: a few lines of YAML can stand for more than memory holds, or for no end."""


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`["loop.rate_hz=30"]` onto a nested mapping; values are YAML. Returns a new tree."""
    tree = _copy(tree)
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or not path:
            raise ConfigError("override is malformed", expected="section.key=value", found=override)
        node = tree
        *parents, leaf = path.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"override {override}: '{parent}' is not a section")
            node = child
        node[leaf] = _load(value, f"override {override}")
    return tree


def convert(tree: dict[str, Any], kind: type[T], source: str) -> T:
    """The tree as `kind`; a wrong key or type is a `ConfigError` naming where and what is close."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        hint = _nearest(str(error), kind)
        raise ConfigError(
            f"{source}: {error}", remedy=hint or "see hw_configs/README.md for every key"
        ) from error


def check_ranges(where: str, rows: Iterable[tuple[str, float, float, float]]) -> None:
    """Each row a key, its value, the least and the most it may be (inf: no most); the first one outside is
    a `ConfigError` that names `where` + key. NaN is outside."""
    for name, value, least, most in rows:
        if not least <= value <= most:
            expected = f">= {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
            raise ConfigError(f"{where}{name}", expected=expected, found=value)


def parse(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; anything else is a `ConfigError`."""
    tree = _load(text, source)
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}", expected="a mapping", found=type(tree).__name__)
    return tree


def _load(text: str, source: str) -> Any:
    """Whatever YAML holds. Raises `ConfigError`."""
    try:
        tree = yaml.load(text, _Loader)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # Not only YAMLError: a date like 2026-99-99 or a number of 5000 digits fails in Python's own types.
        raise ConfigError(f"{source} is not YAML", found=str(error).replace("\n", " ")) from error
    left, count = [tree], 0
    while left:
        value = left.pop()
        count += 1
        if count + len(left) > MAX_VALUES:
            raise ConfigError(f"{source} is too large", expected=f"<= {MAX_VALUES} values")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
    return tree


class _Loader(yaml.SafeLoader):
    """Plain values only, and each key of a mapping once: of two YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in lines:
                raise ConfigError(
                    f"key '{key}' is there twice",
                    found=f"in line {lines[key]} and in line {line}",
                    remedy="keep one of them",
                )
            if isinstance(key, Hashable):
                lines[key] = line
        return super().construct_mapping(node, deep=deep)


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _nearest(message: str, kind: type[msgspec.Struct]) -> str:
    if "unknown field" not in message:
        return ""
    wrong = message.split("`")[1]
    names = sorted(_field_names(kind, set()))
    close = difflib.get_close_matches(wrong, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(names)}"


def _field_names(kind: Any, seen: set[Any]) -> set[str]:
    names: set[str] = set()
    if kind in seen:
        return names
    seen.add(kind)
    for field in msgspec.structs.fields(kind):
        names.add(field.encode_name)
        candidates = [field.type, *getattr(field.type, "__args__", ())]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
                names |= _field_names(candidate, seen)
    return names
