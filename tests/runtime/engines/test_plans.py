"""Plans on disk: built once for this package and device, never loaded when anything about them differs."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_package import make_package

from contracts.errors import PackageError
from contracts.files.packages import load_package
from runtime.engines import building, plans
from runtime.engines.building import BuildOptions, Progress, build_plan

POLICY = Path(__file__).resolve().parents[3] / "pretrained" / "policy-open_drawer"
DEVICE = {"library": "tensorrt", "version": "10.3.0", "gpu": "Orin", "capability": "8.7"}


@pytest.fixture
def identity(tmp_path: Path) -> plans.PlanIdentity:
    return plans.identity_of(make_package(tmp_path / "package"), "head", **DEVICE)


def _build(text: str, calls: list[str]) -> Any:
    def build() -> bytes:
        calls.append(text)
        return text.encode()

    return build


def test_a_plan_is_built_once(tmp_path: Path, identity: plans.PlanIdentity) -> None:
    calls: list[str] = []
    cache = tmp_path / "cache"
    first = plans.obtain(cache, identity, _build("one", calls))
    again = plans.obtain(cache, identity, _build("two", calls))
    assert (first.plan, again.plan, calls) == (b"one", b"one", ["one"])
    assert first.rebuilt == "none was built yet" and again.rebuilt == ""
    assert again.card.identity == identity and again.path.read_bytes() == b"one"
    anew = plans.obtain(cache, identity, _build("three", calls), anew=True)
    assert anew.plan == plans.obtain(cache, identity, _build("four", calls)).plan == b"three"


@pytest.mark.parametrize("field", plans.PlanIdentity.__struct_fields__)
def test_another_identity_is_another_plan_and_a_foreign_card_is_not_believed(
    tmp_path: Path, identity: plans.PlanIdentity, field: str
) -> None:
    calls: list[str] = []
    cache = tmp_path / "cache"
    plans.obtain(cache, identity, _build("ours", calls))
    value = "other"
    other = msgspec.structs.replace(identity, **{field: value})
    found = plans.obtain(cache, other, _build("theirs", calls))
    assert calls == ["ours", "theirs"] and found.plan == b"theirs"
    # Their plan with its card, copied to where ours should be (a cache taken along to another machine).
    for suffix in (".plan", ".json"):
        source = plans.plan_path(cache, other).with_suffix(suffix)
        plans.plan_path(cache, identity).with_suffix(suffix).write_bytes(source.read_bytes())
    rebuilt = plans.obtain(cache, identity, _build("ours again", calls))
    assert rebuilt.plan == b"ours again" and f"another's: {field} {value}" in rebuilt.rebuilt


def test_a_cap_on_workspace_is_kept_to_and_its_plan_serves_without_one(
    tmp_path: Path, identity: plans.PlanIdentity
) -> None:
    calls: list[str] = []
    plans.obtain(tmp_path, identity, _build("any", calls))
    capped = plans.obtain(tmp_path, identity, _build("256", calls), workspace_mib=256)
    assert capped.plan == b"256" and "all memory of workspace instead of 256" in capped.rebuilt
    for cap in (256, 0):
        found = plans.obtain(tmp_path, identity, _build("never", calls), workspace_mib=cap)
        assert found.plan == b"256" and not found.rebuilt
    other = plans.obtain(tmp_path, identity, _build("128", calls), workspace_mib=128)
    assert "256 MiB of workspace instead of 128" in other.rebuilt
    assert calls == ["any", "256", "128"]


def test_a_plan_that_another_release_builds_otherwise_is_built_again(
    tmp_path: Path, identity: plans.PlanIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    path = plans.obtain(tmp_path, identity, _build("one", calls)).path.with_suffix(".json")
    card = json.loads(path.read_text())
    # As releases wrote it that kept neither; what they built is recipe 1.
    del card["workspace_mib"], card["recipe"]
    path.write_text(json.dumps(card))
    monkeypatch.setattr(plans, "RECIPE", 1)
    assert not plans.obtain(tmp_path, identity, _build("never", calls)).rebuilt
    monkeypatch.setattr(plans, "RECIPE", 2)
    found = plans.obtain(tmp_path, identity, _build("two", calls))
    assert "another release" in found.rebuilt and found.card.recipe == 2
    assert not plans.obtain(tmp_path, identity, _build("never", calls)).rebuilt
    assert calls == ["one", "two"]


@pytest.mark.parametrize(
    ("suffix", "change", "why"),
    [
        (".plan", lambda data: data[:-1], "truncated or changed"),
        (".plan", lambda data: data[:-1] + b"x", "truncated or changed"),
        (".json", lambda data: data[:40], "can't be read"),
        (".json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 9'), "9"),
        (".json", lambda data: b"\xff" + data, "can't be read"),
        (".json", None, "none was built yet"),
        (".plan", None, "none was built yet"),
    ],
)
def test_a_damaged_cache_is_built_again(
    tmp_path: Path, identity: plans.PlanIdentity, suffix: str, change: Any, why: str
) -> None:
    calls: list[str] = []
    plans.obtain(tmp_path, identity, _build("sound", calls))
    path = plans.plan_path(tmp_path, identity).with_suffix(suffix)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    found = plans.obtain(tmp_path, identity, _build("anew", calls))
    assert found.plan == b"anew" and why in found.rebuilt
    assert plans.obtain(tmp_path, identity, _build("never", calls)).plan == b"anew"


def test_killed_between_plan_and_card_the_plan_does_not_count(
    tmp_path: Path, identity: plans.PlanIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.obtain(tmp_path, identity, lambda: b"old")
    write = plans.atomic.write_bytes

    def killed(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(plans.atomic, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            plans.obtain(tmp_path, identity, lambda: b"new", anew=True)
    assert plans.load(tmp_path, identity) == "none was built yet"


def _slowly(cache: Path, identity: plans.PlanIdentity, built: Any) -> None:
    def build() -> bytes:
        with built.get_lock():
            built.value += 1
        time.sleep(0.2)
        return b"plan"

    assert plans.obtain(cache, identity, build).plan == b"plan"


def test_of_two_processes_one_builds(tmp_path: Path, identity: plans.PlanIdentity) -> None:
    context = multiprocessing.get_context("fork")
    built = context.Value("i", 0)
    workers = [context.Process(target=_slowly, args=(tmp_path, identity, built)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0] and built.value == 1


def test_progress_never_goes_back_and_ends_at_one() -> None:
    told: list[float] = []
    progress = Progress(lambda _phase, share: told.append(share))
    progress.start("build", None, 2)
    progress.start("tactics", "build", 4)
    for step in range(4):
        progress.step("tactics", step)
    # TensorRT leaves out the ends of some phases: a sister phase ends it.
    progress.step("build", 0)
    progress.start("formats", "build", 2)
    progress.step("formats", 0)
    progress.finish("formats")
    progress.finish("build")
    assert told == sorted(told) and told[-1] == 1.0
    assert told[5] == pytest.approx(0.5) and 0.5 < told[8] < 1.0


def test_a_real_builders_plan_is_cached_with_its_progress(tmp_path: Path) -> None:
    """The builder of tensorrt-rtx works without a GPU for graphs that are never refitted."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = load_package(POLICY)
    identity = plans.identity_of(
        package, "trunk", library=trt.__name__, version=trt.__version__, gpu="none", capability=""
    )
    told: list[tuple[str, float]] = []
    options = BuildOptions(
        plans.timing_path(tmp_path, identity), 256, lambda p, s: told.append((p, s))
    )
    logger = trt.Logger(trt.Logger.ERROR)
    found = plans.obtain(
        tmp_path, identity, lambda: build_plan(trt, logger, package, "trunk", options)
    )
    assert len(found.plan) > sum(t.nbytes for t in package.graph_weights("trunk").values()) // 2
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(set(shares)) > 20
    again = plans.obtain(tmp_path, identity, lambda: pytest.fail("it was built again"))
    assert again.plan == found.plan and again.card.build_s > 0


def test_weights_that_changed_on_disk_since_their_check_are_never_cached(tmp_path: Path) -> None:
    """The parser reads the file again, so what it built is what lies there now."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = make_package(tmp_path / "package")
    path = package.folder / package.manifest.weights_file
    data = path.read_bytes()
    identity = plans.identity_of(package, "trunk", **DEVICE)
    logger = trt.Logger(trt.Logger.ERROR)

    def obtain() -> plans.Obtained:
        return plans.obtain(
            tmp_path / "cache", identity, lambda: build_plan(trt, logger, package, "trunk")
        )

    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PackageError, match=r"weights\.safetensors changed while it was read"):
        obtain()
    assert plans.load(tmp_path / "cache", identity) == "none was built yet"
    path.write_bytes(data)
    assert obtain().rebuilt == "none was built yet" and not obtain().rebuilt


def test_a_real_parser_takes_every_graph_and_refits_every_refinable_tensor() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = load_package(POLICY)
    logger = trt.Logger(trt.Logger.ERROR)
    for graph in package.manifest.graphs:
        builder = trt.Builder(logger)
        network, _parser = building.parse(trt, logger, builder, package, graph.name)
        building.mark_refittable(network, package, graph.name)
        assert network.num_layers > 0
