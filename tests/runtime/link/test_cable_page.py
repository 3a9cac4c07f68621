"""docs/cable.md names every refusal that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/cable.md").read_text()
REFUSING = (
    "contracts/release.py",
    "contracts/weights.py",
    "contracts/encodings.py",
    "runtime/link/releases.py",
    "runtime/weights/release_files.py",
)


def rows(head: str) -> set[str]:
    """What stands in the first column of the table with that head."""
    table = PAGE.partition(head)[2].partition("\n\n")[0]
    return {
        word for line in table.splitlines() for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }


def given(pattern: str, *paths: Path) -> set[str]:
    return {word for path in paths for word in re.findall(pattern, path.read_text())}


def test_goodbyes() -> None:
    said = given(r'(?:turn_away|Goodbye)\(\s*"(\w+)"', *sorted((ROOT / "trainer").glob("*.py")))
    assert rows("| `Goodbye` | because | the robot |\n|---|---|---|\n") == said


def test_refused_offers() -> None:
    paths = [ROOT / name for name in REFUSING]
    said = given(r'(?:ReleaseRejected|EncodingRefused)\(\s*"(\w+)"', *paths)
    assert len(said) > 8
    assert said <= rows("| refused as | because |\n|---|---|\n")
