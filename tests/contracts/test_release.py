"""Releases: signature, replay, expiry, other robots and packages; and weight files that lie."""

from __future__ import annotations

import dataclasses
import json
import struct

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ReleaseRejected
from contracts.files.packages import safetensors_bytes
from contracts.package import TensorSpec, check_tensors, weights_id
from contracts.release import Expected, ReleaseManifest, sign, verify, verify_weights
from contracts.weights import MAX_TENSORS, read_header, read_tensors

KEY = Ed25519PrivateKey.generate()
TENSORS = {"head/a": np.arange(6, dtype=np.float32).reshape(2, 3), "head/b": np.ones(2, np.int64)}
DATA = safetensors_bytes(TENSORS)


def manifest(**changes: object) -> ReleaseManifest:
    import hashlib

    base = ReleaseManifest(
        "policy", "pkg", 5, 4, 3, weights_id(TENSORS), hashlib.sha256(DATA).hexdigest(), len(DATA),
        (TensorSpec("head/a", "float32", (2, 3)),), 8, ("bench-0",), "", 1000.0, 2000.0, "t",
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def check(data: bytes, signature: bytes, **changes: object) -> ReleaseManifest:
    expected = Expected("policy", "pkg", "bench-0", 4, "cal-1", "obs-1", "act-1")
    expected = dataclasses.replace(expected, **changes)  # type: ignore[arg-type]
    return verify(data, signature, KEY.public_key(), expected, now_unix_s=1500.0)


def test_a_good_release_passes() -> None:
    assert check(*sign(manifest(), KEY)) == manifest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "reward"}, "target"),
        ({"package_id": "other"}, "package"),
        ({"robot_ids": ("arm-7",)}, "robot"),
        ({"calibration_id": "cal-2"}, "calibration"),
        ({"observation": "obs-2"}, "spec"),
        ({"action": "act-2"}, "spec"),
        ({"publish_seq": 4}, "replay"),
        ({"publish_seq": 2**53 + 1}, "sequence"),
        ({"sha256": "../../etc"}, "manifest"),
        ({"expires_unix_s": 1499.0}, "expired"),
        ({"nbytes": 0}, "size"),
        ({"nbytes": 2**40}, "size"),
    ],
)
def test_each_refusal_has_its_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ReleaseRejected) as caught:
        check(*sign(manifest(**changes), KEY))
    assert caught.value.reason == reason


def test_what_the_trainer_did_not_know_is_not_asked_for() -> None:
    assert check(*sign(manifest(calibration_id="", observation="", action=""), KEY))
    named = manifest(calibration_id="cal-1", observation="obs-1", action="act-1")
    assert check(*sign(named, KEY)) == named
    with pytest.raises(ReleaseRejected, match="another calibration"):
        check(*sign(named, KEY), calibration_id="")


def test_any_robot_when_none_is_named() -> None:
    assert check(*sign(manifest(robot_ids=()), KEY), robot_id="anyone")


def test_nothing_is_believed_before_the_signature() -> None:
    data, signature = sign(manifest(), KEY)
    stranger = sign(manifest(), Ed25519PrivateKey.generate())[1]
    for bad in ((data + b" ", signature), (data, stranger), (data, b""), (b"", signature)):
        with pytest.raises(ReleaseRejected) as caught:
            check(*bad)
        assert caught.value.reason == "signature"
    junk = b"{}"
    with pytest.raises(ReleaseRejected) as caught:
        check(junk, KEY.sign(junk))
    assert caught.value.reason == "manifest"


def test_weights_must_be_the_signed_ones() -> None:
    verify_weights(manifest(), DATA)
    for bad, reason in ((DATA[:-1], "size"), (DATA[:-1] + b"x", "hash")):
        with pytest.raises(ReleaseRejected) as caught:
            verify_weights(manifest(), bad)
        assert caught.value.reason == reason


def test_tensors_come_back_equal_and_read_only() -> None:
    found = read_tensors(DATA)
    assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in TENSORS.items()}
    assert all(not tensor.flags.writeable for tensor in found.values())
    specs = tuple(spec for spec, _, _ in read_header(DATA).values())
    assert check_tensors(specs, found) == []


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([3e38, 3e38, 3e38], True),  # the sum of finite values need not be
        ([1.0, np.nan, 2.0], False),
        ([np.inf, -np.inf, 0.0], False),
        ([-np.inf, 0.0, 0.0], False),
    ],
)
def test_weights_that_are_not_finite_are_named(values: list[float], finite: bool) -> None:
    spec = TensorSpec(name="w", shape=(3,), dtype="float32")
    problems = check_tensors((spec,), {"w": np.array(values, np.float32)})
    assert problems == ([] if finite else ["'w' holds NaN or infinity"])


def crafted(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        crafted([]),
        crafted({"a": 1}),
        crafted({"a": {**entry(), "code": "x"}}, b"1234"),
        crafted({"a": entry("O")}, b"1234"),
        crafted({"a": entry("BF16")}, b"1234"),
        crafted({"a": entry(shape=(-1,))}, b"1234"),
        crafted({"a": entry(shape=(1,) * 9)}, b"1234"),
        crafted({"a": entry(shape=(2**40, 2**40))}, b"1234"),
        crafted({"a": entry(offsets=(0, 8))}, b"12345678"),
        crafted({"a": entry(offsets=(4, 8))}, b"12345678"),
        crafted({"a": entry(), "b": entry()}, b"1234"),
        crafted({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456"),
        crafted({"a": entry()}, b"12345"),
        crafted({"a": entry()}, b"123"),
        crafted({"": entry()}, b"1234"),
        crafted({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(MAX_TENSORS + 1)}),
    ],
)
def test_weight_files_that_lie_are_refused(data: bytes) -> None:
    with pytest.raises(ReleaseRejected) as caught:
        read_tensors(data)
    assert caught.value.reason == "weights"


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255), st.integers(0, 40))
def test_damaged_weight_files_are_refused_or_sound(at: int, value: int, cut: int) -> None:
    data = bytearray(DATA)
    data[at] = value
    try:
        found = read_tensors(bytes(data[: len(data) - cut]))
    except ReleaseRejected:
        return
    assert sum(tensor.nbytes for tensor in found.values()) <= len(DATA)
