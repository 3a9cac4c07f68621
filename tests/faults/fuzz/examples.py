"""A sound instance of any message, made from its declaration: a new message is fuzzed without a word here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
from msgspec import inspect

from contracts.messages import AnyMessage

_PLAIN: dict[type, Any] = {
    inspect.IntType: 3,
    inspect.FloatType: 0.5,
    inspect.StrType: "bench-0",
    inspect.BytesType: b"\x01\x02",
    inspect.BoolType: True,
    inspect.NoneType: None,
    inspect.AnyType: None,
}


def example(kind: Any) -> Any:
    """A value of `kind`, every field filled and every collection with one item."""
    return msgspec.convert(_example(inspect.type_info(kind)), kind)


def all_messages() -> Iterator[msgspec.Struct]:
    """One of each message that there is."""
    for kind in get_args(AnyMessage):
        yield example(kind)


def _example(info: inspect.Type) -> Any:  # noqa: PLR0911 - one line a kind of type
    if type(info) in _PLAIN:
        return _PLAIN[type(info)]
    if isinstance(info, inspect.StructType):
        # Reward signals check their ranges: what they default to is sound.
        fields = {f.encode_name: _example(f.type) for f in info.fields if f.required}
        fields |= {f.encode_name: _example(f.type) for f in info.fields if not _bounded(info)}
        return fields | ({info.tag_field: info.tag} if info.tag_field else {})
    if isinstance(info, inspect.TupleType):
        return [_example(item) for item in info.item_types]
    if isinstance(info, inspect.VarTupleType | inspect.ListType):
        return [_example(info.item_type)]
    if isinstance(info, inspect.DictType):
        return {_example(info.key_type): _example(info.value_type)}
    if isinstance(info, inspect.UnionType):
        return _example(max(info.types, key=lambda t: isinstance(t, inspect.StructType)))
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    raise TypeError(f"no example of {info}")


def _bounded(info: inspect.StructType) -> bool:
    return hasattr(info.cls, "__post_init__")
