"""A robot's hardware configuration as text: some keys are set, everything else stays as its owner wrote it.

Owns the edit and its proof (the result is read again); what keys mean is `runtime.config`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from contracts.config import parse
from contracts.errors import ConfigError
from contracts.files import atomic

Value = str | int | float | bool | tuple[float, ...]
MAX_BYTES = 1024 * 1024


def read(path: Path) -> dict[str, Any]:
    """Its tree. Raises `ConfigError`."""
    return parse(_text(path), str(path))


def change(path: Path, values: Mapping[str, Value]) -> None:
    """Set dotted keys (`cameras.wrist.latency_s`) in the file, durably. Raises `ConfigError`, with the file
    as it was, where that can't be done without touching anything else."""
    text = edited(_text(path), values, str(path))
    atomic.write_bytes(path, text.encode())


def edited(text: str, values: Mapping[str, Value], source: str) -> str:
    """The text with these keys set; comments and layout stay. Raises `ConfigError`."""
    # Through JSON: what an alias shares in the text must not be shared here.
    wanted = msgspec.json.decode(_plain(parse(text, source)))
    for key, value in values.items():
        _put(wanted, key, value, source)
        text = _set(text, key.split("."), value)
    try:
        sound = _plain(parse(text, source)) == _plain(wanted)
    except (ConfigError, msgspec.MsgspecError, TypeError):
        sound = False
    if not sound:
        lines = "; ".join(f"{key}: {_said(value)}" for key, value in values.items())
        raise ConfigError(
            f"{source} is laid out in a way that can't be edited safely",
            remedy=f"set by hand: {lines}",
        )
    return text


def _text(path: Path) -> str:
    try:
        return atomic.read_bytes(path, MAX_BYTES).decode()
    except (atomic.FileError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"can't read {path}", found=str(error), remedy="give --config hw_configs/<yours>.yaml"
        ) from error


def _put(tree: dict[str, Any], key: str, value: Value, source: str) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{source}: {parent} is no section", expected=f"room for {key}")
        tree = inner
    tree[leaf] = value


def _plain(tree: dict[str, Any]) -> bytes:
    return msgspec.json.encode(tree, order="deterministic")


def _said(value: Value) -> str:
    """On one line, and no number loses a digit."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, float):
        digits, e, power = repr(value).partition("e")
        # To YAML 1e-05 is a word, 1.0e-05 a number.
        return f"{digits}.0{e}{power}" if e and "." not in digits else f"{digits}{e}{power}"
    return msgspec.json.encode(value).decode()


def _set(text: str, key: list[str], value: Value) -> str:
    node = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)  # parsed before
    for depth, name in enumerate(key):
        found = next((v for k, v in node.value if k.value == name), None)
        if found is None:
            return _insert(text, node, key[depth:], value)
        if depth == len(key) - 1:
            start, end = found.start_mark.index, found.end_mark.index
            if isinstance(found, yaml.CollectionNode) and not found.flow_style:
                return text  # a block where a value is wanted: the proof refuses
            return text[:start] + _said(value) + text[end:]
        if not isinstance(found, yaml.MappingNode):
            return text
        node = found
    return text


def _insert(text: str, node: yaml.MappingNode, key: list[str], value: Value) -> str:
    """Into that mapping, at its end; `key` may begin with sections that are not there yet."""
    inside = _said(value)
    for name in reversed(key[1:]):
        inside = f"{{{name}: {inside}}}"
    entry = f"{key[0]}: {inside}"
    if node.flow_style:
        end = node.end_mark.index - 1
        kept = text[:end].rstrip()
        comma = "" if kept.endswith(("{", ",")) else ","
        return f"{kept}{comma}{' ' if node.value else ''}{entry}{text[end:]}"
    # A block ends where the next token is; the last value's own end is on its last line.
    last = node.value[-1][1]
    end = _last_index(last)
    newline = text.find("\n", end)
    at = len(text) if newline < 0 else newline
    indent = " " * node.start_mark.column
    return f"{text[:at]}\n{indent}{entry}{text[at:]}"


def _last_index(node: yaml.Node) -> int:
    """Where the text of a node ends; of a block its last value's."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _last_index(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _last_index(node.value[-1])
    return int(node.end_mark.index)
