"""Runs a module of ours under a wall clock that is stepped: `unsteady.py <file> <module> [argument...]`.

The file holds one double, the seconds by which the clock is off; who started this writes it at any time.
Nothing of the module knows of it.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time


def main() -> None:
    path, module = sys.argv[1:3]
    with open(path, "r+b") as file:
        page = mmap.mmap(file.fileno(), 8)
    true_ns = time.time_ns

    def off_s() -> float:
        return float(struct.unpack_from("d", page)[0])

    time.time = lambda: true_ns() / 1e9 + off_s()
    time.time_ns = lambda: true_ns() + int(off_s() * 1e9)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
