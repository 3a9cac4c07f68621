"""The one door to MuJoCo: picks the off-screen GL backend and imports the library on first use."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

# OSMesa needs no display and no GPU and leaves the process cleanly; EGL without a GPU often has
# no device to open. Anybody with a GPU sets MUJOCO_GL=egl before starting.
DEFAULT_GL = "osmesa"


class SimulationUnavailable(ImportError):
    """MuJoCo (or the GL library that it renders with) is not installed."""


def load_mujoco() -> ModuleType:
    """Return the `mujoco` module, with an off-screen GL backend chosen.

    Raises:
        SimulationUnavailable: with the extra to install in the sentence.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", DEFAULT_GL)
    try:
        mujoco = importlib.import_module("mujoco")
    except (ImportError, OSError, AttributeError) as error:
        raise SimulationUnavailable(
            "the simulated bench needs MuJoCo and an off-screen GL library: "
            f"pip install 'entracte[sim]' and install libosmesa6 or libegl1 ({error})"
        ) from error
    # MuJoCo would write its warnings to a file in the working directory; physics.py reads the
    # counters and raises instead.
    mujoco.set_mju_user_warning(lambda message: None)
    return mujoco
