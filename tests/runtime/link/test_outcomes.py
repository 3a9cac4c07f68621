"""Outcomes of releases wait on disk until the trainer has them; a killed link leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts import wire
from contracts.errors import WireError
from contracts.messages import OutcomeStored, ReleaseOutcome
from runtime.link.outcomes import OutcomeSpool


def _outcome(report_id: str) -> ReleaseOutcome:
    return ReleaseOutcome("r", "policy", 1, "swapped", "", 3, 9, 0.1, 0.2, 0.3, report_id)


def test_reports_outlive_the_link_in_order_and_once(tmp_path: Path) -> None:
    told: list[str] = []
    spool = OutcomeSpool(tmp_path, lambda parts: told.append(wire.unpack(parts).message.report_id))
    for name in ("s1.1", "s1.2", "s1.1"):
        spool.add(_outcome(name))
    (tmp_path / ".00000002.wire.0a1b2c3d.tmp").write_bytes(b"half")  # killed while it wrote
    spool = OutcomeSpool(tmp_path, lambda parts: told.append(wire.unpack(parts).message.report_id))
    assert len(spool) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.wire", "00000001.wire"]
    spool.tick(0.0)
    spool.tick(0.5)
    spool.on_stored(OutcomeStored("s1.9"), 0.6)
    spool.on_stored(OutcomeStored("s1.1"), 0.7)
    spool.on_stored(OutcomeStored("s1.2"), 0.8)
    assert told == ["s1.1", "s1.2"] and not list(tmp_path.iterdir())
    with pytest.raises(WireError, match="report_id"):
        spool.add(_outcome(""))
