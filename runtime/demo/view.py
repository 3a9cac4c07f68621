"""What the demo shows while it runs: its state, the time left, a panel for terminals, lines elsewhere.

Pure: state in, text or renderables out. What happens is known from the trainer's metrics and the robot's
board; the simulator's truth file is not read here, only what `robot-run eval` prints when it is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"
PHASES = ("base", "refine", "final", "report")
TITLES = {
    "base": "base evaluation",
    "refine": "refinement",
    "final": "final evaluation",
    "report": "report",
}
# Before an iteration was measured: what it costs beyond its episodes, next to an evaluation's.
ITERATION_EXTRA_S = 3.0
REPORT_S = 15.0


@dataclass
class IterationSeen:
    """One finished iteration, as the trainer wrote it."""

    number: int
    successes: int
    episodes: int
    update_s: float = math.nan
    pushed_bytes: int = 0


@dataclass
class State:
    """Everything the view knows. Times are seconds of one monotonic clock."""

    task: str
    reward: str
    seed: int
    iterations: int
    per_iteration: int
    evaluation_episodes: int
    started_s: float
    phase: str = ""
    phase_started_s: float = 0.0
    now: str = "starting"
    done: int = 0
    """Episodes done in this phase."""
    results: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Phase -> (successes, episodes), when the evaluation is over."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> how long it took, when it is over."""
    finished: list[IterationSeen] = field(default_factory=list)
    judged: int = 0
    judged_successes: int = 0
    process: float = math.nan
    completion: float = math.nan
    loop_rate_hz: float = math.nan
    push_s: float = math.nan
    push_bytes: int = 0

    def enter(self, phase: str, now_s: float) -> None:
        if self.phase:
            self.seconds[self.phase] = now_s - self.phase_started_s
        self.phase, self.phase_started_s, self.done, self.now = phase, now_s, 0, ""


def take_metrics(state: State, row: dict[str, Any]) -> None:
    """One record of the trainer's metrics.jsonl."""
    kind = row.get("kind")
    if kind == "episode" and row.get("purpose", "refine") == "refine":
        state.judged += row.get("success") is not None
        state.judged_successes += row.get("success") is True
    elif kind == "iteration":
        state.finished.append(
            IterationSeen(
                int(row["iteration"]),
                int(row.get("successes", 0)),
                int(row.get("episodes", 0)),
                _number(row.get("update_s")),
                int(row.get("nbytes") or 0),
            )
        )
    elif kind == "release" and row.get("outcome") == "swapped":
        state.push_s = _number(row.get("publish_to_swapped_s"))
        state.push_bytes = int(row.get("bytes_on_wire") or 0)


def left_s(state: State, now_s: float) -> float:
    """Seconds until the end, from what was measured so far; NaN before there is anything to go by."""
    in_phase_s = now_s - state.phase_started_s
    evaluation_s = _evaluation_s(state, in_phase_s)
    if math.isnan(evaluation_s):
        return math.nan
    left = REPORT_S
    if state.phase == "base":
        left += max(0.0, evaluation_s - in_phase_s)
    if state.phase in ("base", "refine"):
        left += evaluation_s
        share = evaluation_s / state.evaluation_episodes
        iteration_s = share * state.per_iteration + ITERATION_EXTRA_S
        done = state.done / state.per_iteration if state.phase == "refine" else 0.0
        if done >= 1:
            iteration_s = in_phase_s / done
        left += max(0.0, state.iterations - done) * iteration_s
    if state.phase == "final":
        left += max(0.0, evaluation_s - in_phase_s)
    return left if state.phase != "report" else max(0.0, REPORT_S - in_phase_s)


def _evaluation_s(state: State, in_phase_s: float) -> float:
    """How long an evaluation takes: measured on this one, else on the base's."""
    if state.phase in ("base", "final") and state.done >= 3:
        return in_phase_s / state.done * state.evaluation_episodes
    return state.seconds.get("base", math.nan)


def sparkline(finished: list[IterationSeen]) -> str:
    """Judged success of each iteration as a row of blocks."""
    shares = [it.successes / it.episodes if it.episodes else 0.0 for it in finished]
    return "".join(BLOCKS[min(7, int(share * 8))] for share in shares)


def recent(state: State, iterations: int = 5) -> str:
    """Judged success over the last iterations: "62 % of the last 50"."""
    last = state.finished[-iterations:]
    episodes = sum(it.episodes for it in last)
    if not episodes:
        return ""
    share = 100 * sum(it.successes for it in last) / episodes
    return f"{share:.0f} % of the last {episodes}"


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    seconds = max(0.0, seconds)
    return (
        f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )


def bytes_words(nbytes: int) -> str:
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.0f} kB"


def rows(state: State, now_s: float) -> list[tuple[str, str]]:
    """(name, value) of every figure of the panel."""
    return [
        ("now", _now(state)),
        ("success", _success(state)),
        ("reward", _reward(state)),
        (
            "loop",
            "–"
            if math.isnan(state.loop_rate_hz)
            else f"{state.loop_rate_hz:.0f} ticks a second of wall time",
        ),
        ("last push", _push(state)),
        (
            "time",
            f"{duration(now_s - state.started_s)} gone, {duration(left_s(state, now_s))} left",
        ),
    ]


def _now(state: State) -> str:
    parts = [TITLES.get(state.phase, state.phase)]
    if state.phase in ("base", "final"):
        parts.append(f"episode {state.done} of {state.evaluation_episodes}")
    if state.phase == "refine":
        number = min(state.done // state.per_iteration + 1, state.iterations)
        parts.append(f"iteration {number} of {state.iterations}")
        parts.append(f"episode {state.done % state.per_iteration} of {state.per_iteration}")
    return ", ".join(part for part in (*parts, state.now) if part)


def _success(state: State) -> str:
    parts = []
    if "base" in state.results:
        parts.append(f"base {_rate(*state.results['base'])}")
    if state.finished:
        parts.append(f"training, as the reward judges {recent(state)}")
    elif state.judged:
        parts.append(f"training, as the reward judges {state.judged_successes} of {state.judged}")
    if "final" in state.results:
        parts.append(f"refined {_rate(*state.results['final'])}")
    return "; ".join(parts) or "–"


def _rate(successes: int, episodes: int) -> str:
    return f"{100 * successes / max(episodes, 1):.0f} % ({successes} of {episodes})"


def _reward(state: State) -> str:
    if math.isnan(state.completion):
        return state.reward
    return f"{state.reward}: process {state.process:.2f}, completion {state.completion:.2f}"


def _push(state: State) -> str:
    if not state.push_bytes:
        return "–"
    return f"{bytes_words(state.push_bytes)}, swapped in {state.push_s:.2f} s after publishing"


def panel(state: State, now_s: float) -> Any:
    """The live view, a rich renderable."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bars = Table.grid(padding=(0, 2), expand=True)
    bars.add_column(width=17)
    bars.add_column(ratio=1)
    bars.add_column(width=12, justify="right")
    totals = {
        "base": state.evaluation_episodes,
        "refine": state.iterations * state.per_iteration,
        "final": state.evaluation_episodes,
    }
    order = PHASES.index(state.phase) if state.phase in PHASES else -1
    for place, (phase, total) in enumerate(totals.items()):
        done = total if place < order else state.done if place == order else 0
        style = "bold" if place == order else "dim" if place > order else ""
        bars.add_row(
            Text(TITLES[phase], style=style),
            ProgressBar(total=total, completed=min(done, total)),
            Text(f"{done} of {total}", style=style),
        )
    figures = Table.grid(padding=(0, 2))
    figures.add_column(style="dim", width=17)
    figures.add_column()
    for name, value in rows(state, now_s):
        figures.add_row(name, value)
    if state.finished:
        figures.add_row("by iteration", Text(sparkline(state.finished), style="cyan"))
    title = f"Entracte · {state.task} · reward {state.reward} · seed {state.seed}"
    hint = "Ctrl-C stops and leaves a report"
    return Panel(
        Group(bars, Text(), figures),
        title=title,
        title_align="left",
        subtitle=hint,
        subtitle_align="right",
        box=box.ROUNDED,
        padding=(1, 2),
    )


class Lines:
    """The view where there is no terminal: a line when something was finished."""

    def __init__(self) -> None:
        self._iterations = 0
        self._phase = ""
        self._tens = 0

    def news(self, state: State, now_s: float) -> list[str]:
        """Lines to print now; empty when nothing happened since the last call."""
        found = []
        if state.phase != self._phase:
            if self._phase in state.results:
                found.append(f"{TITLES[self._phase]}: {_rate(*state.results[self._phase])}")
            self._phase, self._tens = state.phase, 0
            found.append(f"{TITLES.get(state.phase, state.phase)} begins")
        if state.phase in ("base", "final") and state.done // 10 > self._tens:
            self._tens = state.done // 10
            found.append(
                f"{TITLES[state.phase]}: {state.done} of {state.evaluation_episodes}, "
                f"{duration(left_s(state, now_s))} left"
            )
        for it in state.finished[self._iterations :]:
            update = "" if math.isnan(it.update_s) else f", updated in {it.update_s:.1f} s"
            push = f", last push {_push(state)}" if state.push_bytes else ""
            found.append(
                f"iteration {it.number} of {state.iterations}: {it.successes} of {it.episodes} judged "
                f"a success{update}{push}, {duration(left_s(state, now_s))} left"
            )
        self._iterations = len(state.finished)
        return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
