"""The board: fields do not overlap, the lease has one owner, an expired one passes to the watchdog only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import EntracteError
from runtime.board import Board, LoopState, Owner, _Float, _Int


def test_every_field_has_a_word_of_its_own_and_is_seen_by_another_process(tmp_path: Path) -> None:
    fields = {name: f for name, f in vars(Board).items() if isinstance(f, _Int | _Float)}
    words = [field.word for field in fields.values()]
    assert len(set(words)) == len(words)
    assert max(words) < 128
    with Board.create(tmp_path / "board") as board:
        board.tick = 41
        board.lateness_s = 0.25
        board.loop_state = LoopState.RUNNING
        code = (
            "import sys; from pathlib import Path; from runtime.board import Board\n"
            "b = Board.open(Path(sys.argv[1])); b.tick = b.tick + 1; print(b.lateness_s, b.loop_state)"
        )
        seen = subprocess.run(
            [sys.executable, "-c", code, str(board.path)], capture_output=True, check=True
        )
        assert seen.stdout.split() == [b"0.25", b"2"]
        assert board.tick == 42
        assert LoopState(board.loop_state) is LoopState.RUNNING


def test_lease_passes_to_the_watchdog_only_when_expired(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        epoch = board.take_lease(Owner.CONTROL, 10.0, 0.05)
        with pytest.raises(EntracteError, match="writer already"):
            board.take_lease(Owner.WATCHDOG, 10.04, 0.05)
        assert board.renew_lease(Owner.CONTROL, epoch, 10.04, 0.05)
        later = board.take_lease(Owner.WATCHDOG, 10.2, 1.0)
        assert later > epoch
        assert not board.renew_lease(Owner.CONTROL, epoch, 10.21, 0.05)
        with pytest.raises(EntracteError, match="watchdog"):
            board.take_lease(Owner.CONTROL, 99.0, 0.05)  # latched: expiry does not give it back


def test_what_is_no_board_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\0" * 4096)
    with pytest.raises(EntracteError, match="another layout"):
        Board.open(tmp_path / "junk")
    with pytest.raises(EntracteError, match="robot-run"):
        Board.open(tmp_path / "absent")
