"""The one door to Gymnasium: makes, seeds and steps environments; what one raises is an `EntracteError`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from contracts.errors import ConfigError, DeviceError, EntracteError, MissingDependency
from runtime.gym import expert
from runtime.gym.section import GymnasiumSection, TaskSection

T = TypeVar("T")
GYMNASIUM = "pip install 'entracte[gym]'"


def require(section: GymnasiumSection) -> str:
    """Its id, if Gymnasium and the environment's modules are installed. Raises `MissingDependency`."""
    missing = [name for name in ("gymnasium", *section.modules) if not _is_installed(name)]
    if missing:
        own = f"pip install {section.install}" if section.install else ""
        wanted = [GYMNASIUM if missing[0] == "gymnasium" else "", own if section.modules else ""]
        raise MissingDependency(
            f"the environment {section.id} is not installed",
            found=f"no module {' and no module '.join(repr(name) for name in missing)}",
            remedy=" and ".join(filter(None, wanted)) or "install the package that has it",
        )
    return section.id


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


class Environment:
    """One task's environment, made when it is first `reset`, and stepped until it says that it is over."""

    def __init__(self, section: GymnasiumSection, task: TaskSection, *, renders: bool) -> None:
        """Raises `EntracteError`."""
        self._section, self._task = section, task
        self._options: dict[str, Any] = {**section.options, **task.options}
        if renders:
            self._options.setdefault("render_mode", "rgb_array")
        if sys.platform.startswith("linux"):
            from runtime.bench.backend import DEFAULT_GL

            os.environ.setdefault("MUJOCO_GL", DEFAULT_GL)
        require(section)
        self._gymnasium = importlib.import_module("gymnasium")
        for module in section.modules:
            self._do(f"import {module}", partial(importlib.import_module, module))
        self._env: Any = None
        self._expert: expert.Act | None = None
        self.observation: Any = None
        self.info: Any = {}
        self.over = ""
        """Why it can't be stepped any more: "terminated" or "truncated"; empty while it can."""

    @property
    def action_space(self) -> Any:
        return self._env.action_space

    def reset(self, seed: int) -> None:
        """A new scene: the same seed, the same again, whatever was before. Raises `EntracteError`."""
        if self._env is None or self._section.seed_option:
            self.close()
            _seed_globally(seed)
            self._env = self._make(seed)
        env = self._env
        # Some wrappers draw before they hand the seed on, and some environments never look at it.
        generator = importlib.import_module("gymnasium.utils.seeding").np_random

        def begin() -> tuple[Any, Any]:
            _seed_globally(seed)
            env.unwrapped.np_random, _ = generator(seed)
            observation, info = env.reset(seed=seed)
            return observation, info

        self.observation, self.info = self._do("reset()", begin)
        self.over, self._expert = "", None

    def step(self, action: np.ndarray) -> None:
        """One step, unless it is over. Raises `EntracteError`."""
        if self.over:
            return
        answer = self._do("step()", lambda: self._env.step(action))
        self.observation, _, terminated, truncated, self.info = answer
        self.over = "terminated" if terminated else "truncated" if truncated else ""

    def shown(self) -> np.ndarray:
        """float64[entries]: the action that the task's expert takes now. Raises `EntracteError`."""
        name = self._task.expert
        if self._expert is None:
            maker = self._do(f"import of the expert {name}", lambda: expert.find(name))
            one = self._env.unwrapped
            self._expert = self._do(f"the expert {name}", lambda: expert.begin(maker, one))
        act = self._expert
        answer = self._do(f"the expert {name}", lambda: act(self.observation))
        return expert.action_of(answer, len(self.action_space.low))

    def render(self) -> Any:
        """Whatever its `render()` gives. Raises `EntracteError`."""
        return self._do("render()", self._env.render)

    def most_steps(self) -> int | None:
        """After how many steps it ends an episode by itself, where it says so."""
        env, found = self._env, list[int]()
        while env is not None:
            limit = getattr(env, "_max_episode_steps", None)
            found += [limit] if isinstance(limit, int) else []
            env = getattr(env, "env", None)
        return min(found, default=None)

    def close(self) -> None:
        if self._env is not None:
            self._do("close()", self._env.close)
            self._env = None

    def _make(self, seed: int) -> Any:
        options = dict(self._options)
        if self._section.seed_option:
            options[self._section.seed_option] = seed
        make = self._gymnasium.make
        # Its checker would write warnings at every start; what matters is checked by `runtime.gym.mapping`.
        return self._do(
            "gymnasium.make", lambda: make(self._section.id, disable_env_checker=True, **options)
        )

    def _do(self, what: str, job: Callable[[], T]) -> T:
        """An environment may raise anything."""
        try:
            return job()
        except EntracteError:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)  # whose line it was is in logs/bench.log
            kind = ConfigError if what == "gymnasium.make" else DeviceError
            raise kind(
                f"{what} of the environment {self._section.id} failed",
                found=f"{type(error).__name__}: {' '.join(str(error).split())}",
                remedy="see bench.gymnasium.id and options, and logs/bench.log",
            ) from error


def _seed_globally(seed: int) -> None:
    """For environments that draw from the process's own generators and not from theirs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 it is this one that they draw from
