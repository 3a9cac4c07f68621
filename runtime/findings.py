"""What a check says: one line, its status and the fix. Shared by `robot-run doctor` and `selftest`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from contracts.errors import EntracteError

Status = Literal["ok", "warn", "fail"]
WORDS: dict[str, str] = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


class Line(msgspec.Struct, frozen=True):
    """One finding. `warn`: it runs, but not as well as it could; `fail`: a start would not get far.
    `fix`: what to do about it, empty where nothing is to be done."""

    what: str
    status: Status
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Nothing here keeps a run from starting."""
        return self.status != "fail"

    @classmethod
    def judged(cls, what: str, good: bool, found: str, fix: str = "") -> Line:
        """ok or fail."""
        return cls(what, "ok" if good else "fail", found, "" if good else fix)

    @classmethod
    def advised(cls, what: str, good: bool, found: str, fix: str) -> Line:
        """ok or warn."""
        return cls(what, "ok" if good else "warn", found, "" if good else fix)

    def __str__(self) -> str:
        return f"{WORDS[self.status]} {self.what}: {self.found}" + (
            f" -> {self.fix}" if self.fix else ""
        )


def tried(what: str, check: Callable[[], str], fix: str = "") -> Line:
    """What `check` found, or the sentence it failed with."""
    try:
        return Line(what, "ok", check())
    except EntracteError as error:
        return Line(what, "fail", str(error), fix)
