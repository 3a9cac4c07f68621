"""Configuration: YAML mapping plus dotted overrides into frozen structs. Unknown keys are errors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import yaml

from contracts.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)


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
        node[leaf] = yaml.safe_load(value)
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


def parse(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; anything else is a `ConfigError`."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML", found=str(error).replace("\n", " ")) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}", expected="a mapping", found=type(tree).__name__)
    return tree


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
