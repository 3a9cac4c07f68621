"""What counts as a jump between two chunks."""

from __future__ import annotations

import numpy as np

from benchmarks.chunks import jumps


def test_a_jump_is_what_the_two_requests_before_do_not_lead_to() -> None:
    requested = np.zeros((12, 6))
    requested[:, 1] = 3.0 * np.arange(12)  # an even motion is no jump, however fast
    requested[6:, 0] += 5.0
    requested[6:, 5] += 90.0  # the gripper, in percent, does not count
    chunk = np.array([-1] + [0] * 5 + [1] * 6)
    found = jumps([(requested, chunk)])
    assert found["splices"] == 1
    assert found["splice_max_deg"] == found["splice_p50_deg"] == 5.0
    assert found["within_max_deg"] == 0.0


def test_right_after_a_splice_and_before_the_first_chunk_nothing_is_judged() -> None:
    requested = np.zeros((8, 6))
    requested[4:, 0] = 5.0
    chunk = np.array([-1, -1, 0, 0, 1, 1, 1, 1])
    found = jumps([(requested, chunk)])
    assert found["splices"] == 1 and found["splice_max_deg"] == 5.0
    assert found["within_max_deg"] == 0.0  # step 5 still has the jump in its second difference
