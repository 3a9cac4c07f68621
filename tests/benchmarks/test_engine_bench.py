"""The engine benchmarks on the shipped policy, briefly: every row is there and says what it must."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks import engine, push, swap
from benchmarks.machine import clocks_mhz

POLICY = Path(__file__).resolve().parents[2] / "pretrained" / "policy-open_drawer"


def test_every_graph_is_timed_beside_the_bare_library() -> None:
    found = engine.measure(POLICY, engines=("onnxruntime",), rounds=16, warm_up=1)
    assert all(not row.absent for row in found.rows), [row.absent for row in found.rows]
    whats = [(row.graph, row.what) for row in found.rows]
    assert ("trunk", "onnxruntime") in whats and ("head", "onnxruntime after a swap") in whats
    for row in found.rows:
        assert row.ours is not None and row.ours_busy is not None
        assert 0 < row.ours.median <= row.ours.p99 <= row.ours.longest
        if "bare" not in row.what:
            assert row.bare is not None and row.overhead > 0
            assert 0 < row.python_bytes < 4096
    text = engine.table(found)
    assert "not the ratio of the two medians" in text
    assert "over bare" in text and "Precision: head fp32, trunk fp32" in text
    assert msgspec.json.decode(msgspec.json.encode(found), type=engine.Found) == found


def test_the_ways_to_swap_are_compared_and_the_wrong_one_is_known() -> None:
    found = swap.measure(POLICY, swaps=3)
    ways = {way.name: way for way in found.ways}
    chosen = [way for way in found.ways if way.chosen]
    assert all(way.keeps for way in chosen)
    assert [name for name, way in ways.items() if not way.keeps] == [
        "load of a graph optimised before (its weights are baked in)"
    ]
    assert len(chosen) >= 2 and all(way.processor > 0 for way in found.ways)
    assert "golden replay" in swap.table(found)


def test_a_push_goes_through_the_real_link() -> None:
    found = push.measure(POLICY, pushes=2)
    present = [row for row in found.rows if not row.absent]
    assert len(present) >= 2 and all(row.whole > 0 for row in present)
    counted = [
        row for row in present if row.wire
    ]  # at the boundary the bytes are those of the row before
    assert len(counted) == 2
    for row in counted:
        assert 0 < row.payload <= row.wire < row.payload * 1.05 + 65536
    assert any("delta" in row.way and row.payload < found.weights_bytes for row in present)
    assert any(row.payload >= found.weights_bytes for row in present), "one sends the file as it is"
    assert "on the wire (MB)" in push.table(found)


def test_clocks_are_read_as_the_kernel_tells_them(tmp_path: Path) -> None:
    for name, khz in (("cpu0", "2201600"), ("cpu1", "729600")):
        folder = tmp_path / "devices/system/cpu" / name / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    gpu = tmp_path / "class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "cur_freq").write_text("1300500000\n")
    assert clocks_mhz(tmp_path) == {"cpu0": 2201.6, "cpu1": 729.6, "gpu": 1300.5}
