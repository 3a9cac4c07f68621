"""`robot-bench probation`: trials through control's releases end as their pools of episodes say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_package import make_package
from typer.testing import CliRunner

from benchmarks import probation_trials
from benchmarks.app import app
from benchmarks.probation import Chain, chain, chain_table, decisions, simulate
from benchmarks.probation_trials import Pool, drawn, record, summary, worsened
from contracts.encodings import sha256_hex
from contracts.errors import EntracteError
from contracts.files.packages import safetensors_bytes
from runtime.weights.probation import Probation, Tally


@pytest.mark.parametrize(("success", "outcome"), [(1, "committed"), (0, "rolled_back")])
def test_trials_end_as_their_pool_is(tmp_path: Path, success: int, outcome: str) -> None:
    package = make_package(tmp_path / "policy").folder
    healthy = Pool("healthy", "", {str(seed): int(seed % 10 != 0) for seed in range(20)})
    tried = Pool("tried", "", {str(seed): success for seed in range(20)})
    found = drawn(package, healthy, tried, trials=2, reference=30)
    assert [trial.outcome for trial in found] == [outcome] * 2
    assert all(2 <= trial.episodes <= 12 for trial in found), found
    assert f"| tried | 2 | {2 * (not success)} |" in summary("tried", found)


def test_a_pool_is_of_the_head_and_the_package_that_it_was_run_with(tmp_path: Path) -> None:
    """Shipped pools were reported for heads that never ran."""
    package = make_package(tmp_path / "policy")
    ours, others = tmp_path / "ours.safetensors", tmp_path / "others.safetensors"
    ours.write_bytes(b"ours")
    others.write_bytes(b"others")
    path = tmp_path / "pool.json"
    pool = Pool("healthy", "", {"1": 1}, sha256_hex(b"ours"), package.package_id)

    def kept(pool: Pool, weights: Path | None) -> Pool:
        path.write_bytes(msgspec.json.encode(pool))
        return record("healthy", package.folder, weights, 1, path)

    assert kept(pool, ours) == kept(pool, None) == pool
    assert kept(Pool("healthy", "", {"1": 1}), None).head == "", "from before it was kept"
    with pytest.raises(EntracteError, match="episodes of another head"):
        kept(pool, others)
    with pytest.raises(EntracteError, match="a head that was not noted"):
        kept(Pool("healthy", "", {"1": 1}), ours)
    with pytest.raises(EntracteError, match="episodes of another package"):
        kept(Pool("healthy", "", {"1": 1}, pool.head, "another"), ours)


def test_given_heads_have_pools_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def recorded(name: str, _package: Path, _weights: Path, _episodes: int, out: Path) -> Pool:
        written.append(out)
        return Pool(name, "", {"1": 1})

    monkeypatch.setattr(probation_trials, "record", recorded)
    trials = [probation_trials.Trial("committed", 8, "", "")]
    monkeypatch.setattr(probation_trials, "drawn", lambda *_what: trials)
    head = tmp_path / "head.safetensors"
    head.write_bytes(safetensors_bytes({"head/bias": np.ones(3, np.float32)}))
    words = ["probation", "--healthy", str(head), "--worsen", "0.1", "--work", str(tmp_path)]
    found = CliRunner().invoke(app, [*words, "--simulated", "0"])
    assert found.exit_code == 0, found.output
    assert written == [tmp_path / "healthy.json", tmp_path / "worse.json"]


def test_simulated_episodes_end_where_the_table_of_verdicts_says() -> None:
    rules = Probation(most_episodes=12)
    table = decisions(Tally(45, 5), rules)
    assert table[0, 3] == 1 and table[6, 0] == -1 and table[0, 0] == 0
    assert (table[np.arange(13), 12 - np.arange(13)] != 0).all(), "no trial goes on for ever"
    row = simulate(0.9, 50, 0.0, rules, 50, np.random.default_rng(0))
    assert row.rolled_back == 1.0 and row.episodes <= 4 and row.within_10 == 1.0


def test_in_a_chain_the_reference_is_the_last_trial() -> None:
    """More equally good releases are rolled back than by the test alone where the rate is near one half."""
    near_half, high = (chain(rate, 20, Probation(), 50) for rate in (0.56, 0.9))
    assert near_half.releases == 50 * 30
    assert near_half.rolled_back > 0.066 and high.rolled_back < 0.05
    assert near_half.rolled_back + near_half.committed <= 1.0
    assert chain(1.0, 20, Probation(), 2) == Chain(1.0, 20, 60, 0.0, 1.0, 0.0)
    assert "| 1 | 20 | 60 | 0.0 | 100 | 0.0 |" in chain_table([Chain(1.0, 20, 60, 0.0, 1.0, 0.0)])


def test_a_head_is_worsened_by_shares_of_its_own_spread() -> None:
    weights = {"head/mix": np.random.default_rng(0).normal(size=(400, 50)).astype(np.float32) * 7}
    found = worsened(weights, 0.2, seed=1)
    assert found["head/mix"].dtype == np.float32
    assert np.std(found["head/mix"] - weights["head/mix"]) == pytest.approx(1.4, rel=0.02)
    assert np.array_equal(found["head/mix"], worsened(weights, 0.2, seed=1)["head/mix"])
