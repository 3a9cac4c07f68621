"""A small Gymnasium environment with pictures and a language task: six sliders, one of which is to go up.

`gymnasium.make("Sliders-v0")`, registered when this is imported. Entries 0 and 1 of an action are positions,
2 and 3 steps of the target, 4 moves the slider itself, 5 is a position reached at once; 6 does nothing.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

HEIGHT, WIDTH = 48, 64
BARS = 6
STEP = 0.1
REACH = 0.25
"""Of a step: how fast sliders follow their targets."""
COLOURS = (
    (220, 40, 40),
    (40, 200, 40),
    (60, 60, 230),
    (220, 200, 40),
    (200, 60, 200),
    (240, 240, 240),
)


class Sliders(gymnasium.Env):
    """Options: `wanted` slider, whether it `terminates`, whether it observes `pixels`, how it `fails`,
    whether it draws `globally`: everywhere, and from the process's generators."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        wanted: int = 2,
        terminates: bool = False,
        pixels: bool = True,
        fails: str = "",
        globally: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._wanted, self._terminates, self._fails = wanted, terminates, fails
        bars = spaces.Box(0.0, 1.0, (4,), np.float32)
        views = {"top": spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)}
        self.observation_space = spaces.Dict(
            {
                "agent": spaces.Dict(
                    {"bars": bars, "more": spaces.Box(-1.0, 1.0, (2,), np.float64)}
                ),
                **({"pixels": spaces.Dict(views)} if pixels else {}),
            }
        )
        low = np.array([0, 0, -1, -1, -1, 0, 0], np.float32)
        self.action_space = spaces.Box(low, np.ones(7, np.float32))
        self._at = self._target = np.zeros(BARS)
        self._goal = 0.0
        self._globally, self._bias = globally, random.random() if globally else 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._at = self.np_random.uniform(0.2, 0.4, BARS)
        if self._globally:
            self._at = np.random.uniform(0.2, 0.3, BARS) + 0.1 * self._bias  # noqa: NPY002
        self._target = self._at.copy()
        self._goal = self.np_random.uniform(0.55, 0.65)
        return self._observe(), {"words": f"raise slider {self._wanted}"}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float32 and self.action_space.contains(action)
        if self._fails == "step":
            raise KeyError("the sliders are stuck")
        self._target[:2] = action[:2]
        self._target[2:4] = np.clip(self._target[2:4] + STEP * action[2:4], 0.0, 1.0)
        self._at[:4] += np.clip(self._target[:4] - self._at[:4], -REACH, REACH)
        self._at[4] = np.clip(self._at[4] + STEP * action[4], 0.0, 1.0)
        self._at[5] = action[5]
        if self._globally:
            self._at[0] = random.uniform(0.0, 0.5) + np.random.uniform(0.0, 0.5)  # noqa: NPY002
        done = bool(self._at[self._wanted] >= self._goal)
        info = {"is_success": np.float64(done), "height": {"of_wanted": self._at[self._wanted]}}
        return self._observe(), float(done), done and self._terminates, False, info

    def render(self) -> Any:
        return self._draw() if self.render_mode == "rgb_array" else None

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "agent": {"bars": self._at[:4].astype(np.float32), "more": 2 * self._at[4:] - 1}
        }
        return seen | (
            {"pixels": {"top": self._draw()}} if "pixels" in self.observation_space.spaces else {}
        )

    def _draw(self) -> np.ndarray:
        """A bar for each slider, from the lower edge."""
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for bar, (height, colour) in enumerate(zip(self._at, COLOURS, strict=True)):
            top = HEIGHT - round(height * HEIGHT)
            picture[top:, 2 + 10 * bar : 10 + 10 * bar] = colour
        return picture


class Raiser:
    """Knows which slider is to go up, and goes there; `answers` is what it says instead."""

    def __init__(self, env: Sliders, answers: Any = None) -> None:
        self._wanted, self._answers = env._wanted, answers
        self._asked = 0

    def get_action(self, observation: dict[str, Any]) -> Any:
        if self._answers is not None:
            return self._answers
        self._asked += 1
        assert set(observation) == {"agent", "pixels"}
        action = np.zeros(7)
        action[:2] = observation["agent"]["bars"][:2]
        action[5] = (observation["agent"]["more"][1] + 1.0) / 2.0
        if self._asked > 3:  # it has a state of its own, new in every episode
            action[self._wanted] = 5.0  # as other people's do: more than the action space has
        return action


def mute(env: Sliders) -> Any:
    return Raiser(env, answers=[0.0, 1.0])


def lost(env: Sliders) -> Any:
    raise LookupError("the way is lost")


gymnasium.register("Sliders-v0", Sliders, max_episode_steps=400)
