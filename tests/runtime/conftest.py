"""Puts this folder on the path: its tests share `robots` and `recording_run`."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent))
