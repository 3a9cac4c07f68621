"""How near an engine's answers must come, and what a release may say of its own."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from tiny_package import make_package

from contracts.answers import (
    MOST_BYTES,
    MOST_CASE_BYTES,
    MOST_TOLERANCE,
    TOLERANCE,
    Arrays,
    carried,
    difference,
    pack,
    tolerance_of,
    unpack,
)
from contracts.errors import PackageError, ReleaseRejected
from contracts.files.packages import Package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


def answer(**changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    chunks = rng.normal(scale=40, size=(3, 4, 6)).astype(np.float32)
    values = np.array([0.1, 0.7, 0.2], np.float32)
    return {"chunks": chunks, "values": values, "choice": np.array([1]), **changes}  # type: ignore[dict-item]


def test_the_tolerance_fits_the_precision_and_a_packages_own_has_a_bound(package: Package) -> None:
    def said(value: float) -> float:
        manifest = msgspec.structs.replace(package.manifest, golden_tolerance={"trunk": value})
        assert tolerance_of(manifest, "head") == TOLERANCE, "of the graph that it is said of"
        return tolerance_of(manifest, "trunk")

    assert tolerance_of(package.manifest, "trunk") == TOLERANCE
    assert said(0.04) == 0.04 and said(1e-9) == TOLERANCE and said(MOST_TOLERANCE) == MOST_TOLERANCE
    for wrong in (math.nan, math.inf, -0.1, 0.51, 1e300):
        with pytest.raises(
            PackageError, match=r"golden_tolerance of graph 'trunk': expected 0 to 0.5, found .*; "
        ):
            said(wrong)


@pytest.mark.parametrize(
    ("found", "output", "words"),
    [
        ({"chunks": answer()["chunks"][:2]}, "chunks", "float32[2, 4, 6]"),
        ({"chunks": answer()["chunks"].astype(np.float64)}, "chunks", "float64[3, 4, 6]"),
        ({"values": np.array([0.1, np.nan, 0.2], np.float32)}, "values", "NaN or infinity"),
        ({"chunks": answer()["chunks"] * np.float32(1.005)}, "chunks", "e-01"),
        ({"values": np.array([0.1, 0.702, 0.2], np.float32)}, "values", "2.0e-03"),
        ({"choice": np.array([2])}, "choice", "1.0e+00"),
        ({"choice": np.array([7])}, "choice", "6.0e+00"),
        ({"more": np.zeros(1)}, "more", "'more'"),
    ],
)
def test_what_sets_an_answer_apart_is_named(
    found: dict[str, np.ndarray], output: str, words: str
) -> None:
    apart = difference(answer(), answer(**found), TOLERANCE)
    assert apart is not None and apart.output == output and words in apart.found


def test_what_rounding_does_sets_nothing_apart() -> None:
    """Off by a share of the output's own scale; and a tie of the critics may fall either way."""
    right = answer()
    scale = float(np.abs(right["chunks"]).max())
    near = right["chunks"] + np.float32(0.9 * TOLERANCE * scale)
    assert difference(right, answer(chunks=near), TOLERANCE) is None
    over = right["chunks"] + np.float32(1.1 * TOLERANCE * scale)
    assert difference(right, answer(chunks=over), TOLERANCE) is not None
    assert difference(right, answer(chunks=over), 2 * TOLERANCE) is None
    tie = np.array([0.1, 0.7, 0.6999], np.float32)
    assert difference(answer(values=tie), answer(values=tie, choice=np.array([2])), 1e-3) is None
    beyond = answer(choice=np.array([1 << 40]))
    assert difference(beyond, answer(), 1e-3) is not None and difference(answer(), beyond, 1e-3)


def test_nothing_equals_an_expected_answer_that_is_no_number() -> None:
    for bad in (np.nan, np.inf):
        wrong = answer(values=np.array([0.1, bad, 0.2], np.float32))
        apart = difference(wrong, answer(), TOLERANCE)
        assert apart is not None and apart.expected == "finite numbers to compare with"


def test_answers_go_through_bytes_as_they_are() -> None:
    cases = [answer(), answer(choice=np.array([0])), answer(values=np.zeros(3, np.float32))]
    data = pack(cases, [answer()] * 3)
    found = unpack(data, [answer()] * 3)
    assert len(found) == 3
    for case, back in zip(cases, found, strict=True):
        assert list(back) == list(case)
        assert all(np.array_equal(back[n], a) and back[n].dtype == a.dtype for n, a in case.items())


@pytest.mark.parametrize(
    ("count", "bytes_each", "fit"),
    [(5, 100, 5), (5, MOST_BYTES // 2, 2), (5, MOST_CASE_BYTES, 1), (5, MOST_CASE_BYTES + 4, 0)],
)
def test_as_many_cases_as_fit_are_carried(count: int, bytes_each: int, fit: int) -> None:
    golden: list[Arrays] = [{"y": np.zeros(bytes_each // 4, np.float32)}] * count
    assert carried(golden) == fit
    assert len(pack(golden, golden)) == fit * bytes_each <= max(MOST_BYTES, MOST_CASE_BYTES)
    assert len(unpack(pack(golden, golden), golden)) == fit


def test_what_is_no_answer_is_not_packed() -> None:
    golden = [answer()] * 2
    for wrong, words in (
        ([answer()], "answer 1"),
        ([answer(), answer(values=np.full(3, np.inf, np.float32))], "'values'.*NaN or infinity"),
        ([answer(chunks=np.zeros((2, 4, 6), np.float32)), answer()], "answer 0.*'chunks'"),
    ):
        with pytest.raises(PackageError, match=words):
            pack(wrong, golden)


def test_bytes_of_another_size_are_refused_before_they_are_read() -> None:
    golden = [answer()] * 2
    data = pack(golden, golden)
    for wrong in (data[:-1], data + b"\0", data[: len(data) // 2], b"x"):
        with pytest.raises(ReleaseRejected, match=f"expected {len(data)} bytes") as raised:
            unpack(wrong, golden)
        assert raised.value.reason == "answers"
    with pytest.raises(ReleaseRejected, match="expected 0 bytes"):
        unpack(b"x", [])
