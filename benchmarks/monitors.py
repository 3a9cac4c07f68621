"""Do the monitors pause refinement before a lying reward does harm, and leave a sound one alone?

    python -m benchmarks.monitors [--trials 500] [--output FILE]
    python -m benchmarks.monitors --real 10 --work run/monitors

Drawn trials: the truth and the verdicts of recorded refinements (docs/results/refinement), judged by the
trainer's own tests (`trainer.monitors.verdicts`). A trial is one run of 300 episodes. Real trials are
`benchmarks.monitors_real`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from contracts.files import atomic, outputs
from trainer.config import AuditSection, MonitorsSection
from trainer.monitors.records import Row
from trainer.monitors.verdicts import Verdicts
from trainer.report.statistics import wilson

RECORDED = Path(__file__).resolve().parent.parent / "docs" / "results" / "refinement"
ITERATION = 10
SHARE = 0.1


class Run(msgspec.Struct, frozen=True):
    """A recorded refinement: bool[T] each, in order."""

    name: str
    judged: tuple[bool, ...]
    truth: tuple[bool, ...]


@dataclass(frozen=True)
class Scenario:
    """`runs`: recordings to draw from. `lies_from`: iteration (from 1) from which on the reward calls
    failures successes, too, with chance `lie`; 0: as recorded. `second`: (false positives, misses) of the
    second opinion, None for nobody; `labels`: share of episodes that a person labels."""

    name: str
    runs: str
    lies_from: int = 0
    lie: float = 1.0
    second: tuple[float, float] | None = None
    labels: float = 0.0


SCENARIOS = (
    Scenario("sound, second opinion", "learned", second=(0.1, 0.02)),
    Scenario("sound, poor second opinion", "learned", second=(0.25, 0.05)),
    Scenario("sound, labels of 10 %", "learned", labels=0.1),
    Scenario("sound, both", "learned", second=(0.1, 0.02), labels=0.1),
    Scenario("lies from the first episode, second opinion", "lied", second=(0.1, 0.02)),
    Scenario("lies from the first episode, poor second", "lied", second=(0.25, 0.05)),
    Scenario("lies from the first episode, labels of 10 %", "lied", labels=0.1),
    Scenario("lies from the first episode, labels of 30 %", "lied", labels=0.3),
    Scenario("half of failures from the first", "base", 1, 0.5, (0.1, 0.02)),
    Scenario("lies from iteration 4", "learned", 4, 1.0, (0.1, 0.02)),
    Scenario("lies from iteration 11", "learned", 11, 1.0, (0.1, 0.02)),
)


class Trial(msgspec.Struct, frozen=True):
    """`paused_at`: episode, 0 for never. `lies`: false successes from the beginning of the lie that were said
    until the pause; `learned`: those of them in iterations that were published. `releases` since it began."""

    paused_at: int
    monitor: str
    lies: int
    learned: int
    releases: int


def recorded(folder: Path = RECORDED) -> dict[str, list[Run]]:
    """By kind: "learned" (zero-shot and demo rewards), "lied" (constant and clock: every failure was called a
    success), "base" (the policy did not change)."""
    kinds = {
        "demo": "learned",
        "zero-shot": "learned",
        "constant": "lied",
        "clock": "lied",
        "demonstrations": "base",
    }
    found: dict[str, list[Run]] = {kind: [] for kind in kinds.values()}
    for path in sorted(folder.glob("*/*-seed*.json")):
        cell = json.loads(path.read_text())
        kind = kinds.get(cell.get("reward", ""))
        if kind:
            training = cell["training"]
            judged = tuple(value is True for value in training["judged"])
            found[kind].append(Run(path.stem, judged, tuple(map(bool, training["truth"]))))
    return found


def trial(
    scenario: Scenario, runs: Sequence[Run], rules: MonitorsSection, rng: np.random.Generator
) -> Trial:
    """One run, its episodes drawn anew within each iteration, until a monitor trips."""
    run = runs[int(rng.integers(len(runs)))]
    verdicts, lies, learned = Verdicts(rules), 0, 0
    owed: list[tuple[Row, bool]] = []
    first = max(scenario.lies_from - 1, 0) * ITERATION
    for start in range(0, len(run.truth), ITERATION):
        fresh = 0
        for place in range(ITERATION):
            source = start + int(rng.integers(ITERATION))
            row, truth = _episode(scenario, run, start + place, source, rng)
            fresh += start >= first and bool(row.verdict) and not truth
            verdicts.add(row)
            if rng.random() < scenario.labels:
                owed.append((row, truth))
            # Nothing else adds to the evidence.
            alone = bool(row.verdict) and row.second is False
            if alone and (found := _tripped(verdicts)):
                releases = (start - first) // ITERATION
                return Trial(row.arrival + 1, found, lies + fresh, learned, max(releases, 0))
        lies, learned = lies + fresh, learned + fresh
        # A person labels once an iteration, after its release is out.
        for row, truth in owed:
            verdicts.label(row, truth)
        told, owed = bool(owed), []
        if told and (found := _tripped(verdicts)):
            releases = (start + ITERATION - first) // ITERATION
            return Trial(start + ITERATION, found, lies, learned, max(releases, 0))
    return Trial(0, "", lies, learned, (len(run.truth) - first) // ITERATION)


def _episode(
    scenario: Scenario, run: Run, number: int, source: int, rng: np.random.Generator
) -> tuple[Row, bool]:
    """What is said of the run's episode `source`, as episode `number`; and the truth."""
    truth, verdict = run.truth[source], run.judged[source]
    begun = scenario.lies_from and number // ITERATION + 1 >= scenario.lies_from
    if scenario.lies_from and run.name.startswith("demonstrations"):
        verdict = truth  # its reward was a constant
    if begun and not truth:
        verdict = verdict or bool(rng.random() < scenario.lie)
    second = None
    if scenario.second is not None:
        false_positives, misses = scenario.second
        second = bool(rng.random() < (1 - misses if truth else false_positives))
    return (
        Row(
            key=str(number),
            arrival=number,
            model_id="",
            verdict=verdict,
            score=float(verdict),
            second=second,
            second_score=None,
            operator=None,
            base=number < ITERATION,
            chance=1.0,
            chosen=False,
            random=False,
            unix_s=0.0,
        ),
        truth,
    )


def _tripped(verdicts: Verdicts) -> str:
    return next((figure.monitor for figure in verdicts.figures() if figure.tripped), "")


def table(found: dict[str, list[Trial]]) -> str:
    """Markdown."""
    lines = [
        "| reward | trials | paused, % | 95 % | after episodes (median, 90 %) | lies said by then "
        "| lies learned from (median, 90 %) | releases since | by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, trials in found.items():
        ended = [one for one in trials if one.paused_at]
        share = wilson(len(ended), len(trials))
        by = Counter(one.monitor for one in ended)
        lines.append(
            f"| {name} | {len(trials)} | {100 * share.value:.1f} | "
            f"{100 * share.low:.1f} to {100 * share.high:.1f} | {_two([t.paused_at for t in ended])} | "
            f"{_two([t.lies for t in ended])} | {_two([t.learned for t in ended])} | "
            f"{_two([t.releases for t in ended])} | "
            f"{', '.join(f'{kind} {number}' for kind, number in by.most_common()) or '-'} |"
        )
    return "\n".join(lines)


def _two(values: Sequence[int]) -> str:
    if not values:
        return "-"
    return f"{np.median(values):.0f}, {np.quantile(values, 0.9):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=500, help="drawn ones of each kind")
    parser.add_argument("--real", type=int, default=0, help="trials on the bench, seeds 0 and up")
    parser.add_argument("--task", default="open_drawer", help="of the real trials")
    parser.add_argument("--iterations", type=int, default=6, help="most of a real trial")
    parser.add_argument("--work", type=Path, default=Path("run/monitors"))
    parser.add_argument("--pretrained", type=Path, default=Path("pretrained"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="every trial as JSON")
    given = parser.parse_args()
    if given.output:
        outputs.require_file(given.output, "the trials", outputs.json_with("drawn"))
    rules = MonitorsSection(audit=AuditSection(share=SHARE))
    pools, drawn = recorded(), {}
    rng = np.random.default_rng(given.seed)
    for scenario in SCENARIOS if given.trials else ():
        runs = pools[scenario.runs]
        drawn[scenario.name] = [trial(scenario, runs, rules, rng) for _ in range(given.trials)]
    if drawn:
        print(table(drawn), flush=True)
    found: dict[str, object] = {"drawn": msgspec.to_builtins(drawn)}
    if given.real:
        from benchmarks import monitors_real

        real = monitors_real.trials(
            given.task, given.real, given.iterations, given.work, given.pretrained
        )
        print(monitors_real.table(real), flush=True)
        found["real"] = msgspec.to_builtins(real)
    if given.output:
        atomic.write_bytes(given.output, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
