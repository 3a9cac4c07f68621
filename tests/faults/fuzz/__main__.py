"""`python -m tests.faults.fuzz`: run targets apart, each in a process of bounded memory that is watched."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.faults.fuzz.apart import run_apart
from tests.faults.fuzz.driver import Tally, save
from tests.faults.fuzz.registry import all_targets

FOUND = Path(__file__).resolve().parent / "found"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.fuzz", description=__doc__)
    parser.add_argument("--target", default="all", help="one or several by name, with commas")
    parser.add_argument(
        "--messages", type=int, default=1_000_000, help="in all, shared out by weight"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=FOUND, help="where inputs that broke go")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--list", action="store_true", help="names of the targets")
    options = parser.parse_args()
    known = {target.name: target for target in all_targets()}
    names = list(known) if options.target == "all" else options.target.split(",")
    if options.list or not set(names) <= set(known):
        print("\n".join(known))
        return 0 if options.list else 2
    chosen = [known[name] for name in names]
    share = sum(target.share for target in chosen)
    print(f"seed {options.seed}")
    tallies = []
    for target in chosen:
        count = max(1, round(options.messages * target.share / share))
        tally = run_apart(target, seed=options.seed, messages=count)
        tallies.append(tally)
        print(line(tally), flush=True)
        for found in tally.found:
            path = save(found, target.name, options.save)
            print(f"  FOUND {found.what} at {found.where}: {path}\n{found.trace}", flush=True)
    print(total(tallies))
    if options.json:
        options.json.write_text(json.dumps([as_json(tally) for tally in tallies], indent=1) + "\n")
    return 1 if any(tally.found for tally in tallies) else 0


def line(tally: Tally) -> str:
    refused = ", ".join(f"{name} {count}" for name, count in most(tally)[:8])
    return (
        f"{tally.target:>14}: {tally.messages:>8} messages, {tally.per_s:7.0f}/s, {tally.accepted} taken, "
        f"slowest {tally.slowest_s * 1e3:.0f} ms, +{tally.grown_mib:.0f} MiB, {tally.answers} kinds of answer"
        f"; {refused}"
    )


def most(tally: Tally) -> list[tuple[str, int]]:
    """Errors that came out as they should, the most frequent first."""
    return sorted(tally.refused.items(), key=lambda item: -item[1])


def total(tallies: list[Tally]) -> str:
    messages, found = sum(t.messages for t in tallies), sum(len(t.found) for t in tallies)
    seconds = sum(t.seconds for t in tallies)
    return f"{messages} messages in {seconds:.0f} s, {found} found"


def as_json(tally: Tally) -> dict[str, object]:
    return {
        "target": tally.target,
        "seed": tally.seed,
        "messages": tally.messages,
        "per_s": round(tally.per_s, 1),
        "accepted": tally.accepted,
        "refused": dict(most(tally)),
        "slowest_ms": round(tally.slowest_s * 1e3, 2),
        "grown_mib": round(tally.grown_mib, 1),
        "found": [{"what": f.what, "where": f.where} for f in tally.found],
    }


if __name__ == "__main__":
    sys.exit(main())
