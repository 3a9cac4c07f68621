"""Puts this folder on the path, so that tests of all rooms share `tiny_package` and `tiny_robot`.

The repository comes first: otherwise the folders here (contracts, runtime, ...) would pass for the rooms.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
