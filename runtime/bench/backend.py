"""The one door to MuJoCo: picks the off-screen GL backend and imports the library on first use."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

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


def gl_context(width: int, height: int) -> Any:
    """An off-screen GL context of the backend that MUJOCO_GL names, with make_current() and free().

    Raises:
        SimulationUnavailable: that backend's library is missing or has no device.
    """
    mujoco = load_mujoco()
    backend = os.environ.get("MUJOCO_GL", "").lower()
    try:
        if backend in ("osmesa", "egl"):
            # Not mujoco.GLContext: that was chosen when somebody first imported mujoco, which may
            # have been before MUJOCO_GL was set, and is then a window system's.
            return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        return mujoco.GLContext(width, height)
    except Exception as error:  # PyOpenGL raises AttributeError, ImportError and its own errors
        raise SimulationUnavailable(
            f"no off-screen rendering with MUJOCO_GL={backend or 'unset'}: install libosmesa6 and "
            f"set MUJOCO_GL=osmesa, or libegl1 with a GPU and MUJOCO_GL=egl ({error!r})"
        ) from error
