"""Every decoder takes mutated inputs for a moment, and all that once broke one, with typed errors only.

A million messages: `python -m tests.faults.fuzz`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import EntracteError, WireError
from tests.faults.fuzz import apart, driver
from tests.faults.fuzz.mutation import mutate_bytes
from tests.faults.fuzz.registry import all_targets, target_named
from tests.faults.fuzz.target import Target, memory_folder, plain

FOUND = Path(__file__).resolve().parent / "fuzz" / "found"
SEED = 6
MESSAGES, SECONDS = 300, 0.6
"""At most so much for each target, in processor time."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def timed() -> Iterator[None]:
    undo = driver.watch_time()
    yield
    undo()


@pytest.mark.parametrize("name", [target.name for target in all_targets()])
def test_only_typed_errors_come_out_and_memory_is_bounded(name: str, scratch: Path) -> None:
    target = target_named(name)
    tracemalloc.start()
    try:
        tally = driver.feed_mutated(target, scratch, seed=SEED, messages=MESSAGES, seconds=SECONDS)
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert not tally.found, [(found.what, found.where, found.trace) for found in tally.found]
    assert tally.refused and tally.answers > 1, "nothing was wrong with any input"
    assert peak_mib < target.grows_mib


@pytest.mark.parametrize(
    "path", sorted(FOUND.glob("*/*.bin")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_what_once_broke_a_decoder_does_so_no_more(path: Path, scratch: Path) -> None:
    opened = target_named(path.parent.name).open(scratch)
    with opened as feed, contextlib.suppress(EntracteError):
        feed(path.read_bytes())


def _fragile(data: bytes) -> None:
    """Breaks in every way that the fuzzer must see, by the input's first byte."""
    kind = data[0] if data else 0
    if kind == 1:
        raise KeyError("untyped")
    if kind == 2:
        bytearray(4 << 30)
    if kind == 3:
        while True:
            pass
    if kind == 4:
        os.abort()
    if kind == 5:
        time.sleep(60)
    if kind:
        raise WireError("as it should")


def test_a_fuzzer_sees_crashes_hangs_bombs_and_untyped_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "CPU_LIMIT_S", 0.2)
    found: dict[str, bytes] = {}
    for kind in range(6):
        monkeypatch.setattr(apart, "STUCK_S", 2.0 if kind == 5 else 120.0)
        target = Target(
            "fragile", lambda: [b"\0" * 4], lambda rng, d, k=kind: bytes([k]) + mutate_bytes(rng, d)[1:],
            plain(_fragile),
        )  # fmt: skip
        tally = apart.run_apart(target, seed=1, messages=1)
        found |= {one.what.split(":")[0]: one.data[:1] for one in tally.found}
    assert found == {
        "KeyError": b"\1", "MemoryError": b"\2", "TooSlowError": b"\3", "process died": b"\4",
        "no longer advances": b"\5",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_inputs(scratch: Path) -> None:
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        driver.feed_mutated(
            target_named("wire"),
            scratch,
            seed=seed,
            messages=50,
            before=lambda _, d: seen.append(d),
        )
        return seen

    assert inputs(1) == inputs(1) != inputs(2)
