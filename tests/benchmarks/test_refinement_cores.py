"""Cells and evaluations of the refinement experiment share the cores: none idle, none taken twice."""

from benchmarks.refinement_processes import Cores


def test_an_evaluation_takes_what_no_cell_has():
    cores = Cores(4)
    with cores.one(), cores.one():
        with cores.idle_too() as first:
            assert first == 3
            with cores.idle_too() as second:
                assert second == 1  # the other cell's own
            with cores.one(), cores.idle_too() as late:
                assert late == 1  # a cell that began meanwhile
        with cores.idle_too() as again:
            assert again == 3
    with cores.one(), cores.idle_too() as alone:
        assert alone == 4
