"""Typed errors that say what was expected, what was found and what to do. Owns no behaviour."""

from __future__ import annotations

from collections.abc import Sequence


class EntracteError(Exception):
    """Base of every error a user may see: one sentence, with the evidence as attributes.

    `expected`, `found` and `remedy` are short phrases; the message joins those that are given.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        sentence = what
        if expected is not None:
            sentence += f": expected {expected}"
        if found is not None:
            sentence += f"{',' if expected is not None else ':'} found {found}"
        if remedy:
            sentence += f"; {remedy}"
        super().__init__(sentence)


def some_of(items: Sequence[object], most: int = 8, between: str = ", ") -> str:
    """For a sentence: the first of them, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return between.join(map(str, items[:most])) + more


class ConfigError(EntracteError):
    """A configuration file, override or command-line value that can't be used."""


class MissingDependency(EntracteError):
    """An optional library is absent; the remedy names the extra to install."""


class SpecMismatch(EntracteError):
    """Observation or action specs of two parts differ; the message names each difference."""


class WireError(EntracteError):
    """A message from a socket or an episode log is malformed, oversized or of another version."""


class VersionMismatch(WireError):
    """The other end speaks another version of the wire; both are named."""


class PackageError(EntracteError):
    """A model package on disk is incomplete, corrupt or of another format."""


class CheckFailed(EntracteError):
    """A check that was made and failed: parity, a gate. An answer, and no wrong input: exit code 1, not 2."""


class ReleaseRejected(EntracteError):
    """A release failed a check; `reason` is a stable word for counters and acknowledgements."""

    def __init__(self, reason: str, what: str, **evidence: object) -> None:
        self.reason = reason
        super().__init__(what, **evidence)  # type: ignore[arg-type]


class DeviceError(EntracteError):
    """A camera or an arm is absent, refuses or stopped answering."""


class GateFault(EntracteError):
    """A command that must never reach the arm (non-finite, wrong arity, stale)."""
