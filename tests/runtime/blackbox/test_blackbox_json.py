"""What no JSON number can say is null in the black box's JSON."""

from __future__ import annotations

import json
import math

import numpy as np

from runtime.blackbox.box import Dump
from runtime.blackbox.view import as_json


def test_infinity_and_nan_are_null() -> None:
    rows = np.array([[1.0, math.inf], [2.0, math.nan]])
    about = {"columns": ["number", "lateness_s"], "limits": {"high": [-math.inf, 1.0]}}
    dump = Dump(about, rows, np.array([[math.inf, 1.0]]))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = json.loads(as_json(dump), parse_constant=refuse)
    assert told["columns"] == {"number": [1.0, 2.0], "lateness_s": [None, None]}
    assert told["after"] == [[None, 1.0]]
    assert told["about"]["limits"] == {"high": [None, 1.0]}
