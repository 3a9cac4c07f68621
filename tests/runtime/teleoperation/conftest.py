"""Puts the folder above on the path: `robots` starts the real processes for these tests too."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
