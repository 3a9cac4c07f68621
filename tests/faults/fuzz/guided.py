"""`python -m tests.faults.fuzz.guided`: the same targets under atheris (libFuzzer), led by coverage.

Needs `pip install atheris` (in no extra: the seeded driver beside it needs nothing). Mutations are
libFuzzer's and, half of the time, the target's own. Stops at the first finding and saves it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from pathlib import Path

from contracts.errors import EntracteError, MissingDependency

MODULES = ["contracts", "runtime", "trainer"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.fuzz.guided", description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--memory-mib", type=int, default=2048, help="resident memory of the process"
    )
    parser.add_argument("--save", type=Path, default=Path(__file__).resolve().parent / "found")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError as error:
        raise MissingDependency("atheris is not installed", remedy="pip install atheris") from error
    with atheris.instrument_imports(include=MODULES, enable_loader_override=False):
        from tests.faults.fuzz.mutation import MAX_INPUT_BYTES
        from tests.faults.fuzz.registry import target_named
    target = target_named(options.target)
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    saved = options.save / target.name
    saved.mkdir(parents=True, exist_ok=True)
    feed = target.open(scratch).__enter__()

    def one(data: bytes) -> None:
        with contextlib.suppress(EntracteError):
            feed(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(rng, data)[:max_size]

    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={options.memory_mib}",
        "-timeout=30",
        f"-artifact_prefix={saved}/",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
