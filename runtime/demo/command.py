"""`robot-run demo`: trainer and robot as real processes, from base evaluation to report.

Owns the processes, their order, and what is left behind however it ends: the report is always rendered.
It starts `robot-trainer` as a process and imports nothing of it.
"""

from __future__ import annotations

import contextlib
import math
import platform
import shutil
import signal
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from contracts.errors import EntracteError
from contracts.files import atomic
from runtime.demo import plan, view
from runtime.demo.plan import Options
from runtime.demo.view import State
from runtime.demo.watch import Eye, Follower, LiveScreen, PlainScreen, Screen
from runtime.processes.program import Program

EXIT_INTERRUPTED = 130
EXIT_PROCESS_DIED = 4
TRAINER_START_S = 120.0
STOP_PATIENCE_S = {"robot": 40.0, "trainer": 60.0}
REPORT_S = 300.0
POLL_S = 0.1
_PACKAGES = ("entracte", "numpy", "mujoco", "onnxruntime", "torch")


class Interrupted(Exception):
    """Somebody pressed Ctrl-C or sent SIGTERM."""


class Died(EntracteError):
    """A process of the demo ended when it should not have."""


class Demo:
    """One demo run; `run` returns the exit code."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self.options, self._screen = options, screen
        self.words: list[str] = []
        """What to tell the user once the screen is closed."""
        self.state = State(
            task=options.task,
            reward=options.reward,
            seed=options.seed,
            iterations=options.iterations,
            per_iteration=options.episodes,
            evaluation_episodes=options.evaluation_episodes,
            started_s=time.monotonic(),
        )
        self._programs: list[Program] = []
        self._interrupts = 0
        self._stopping = False
        self._metrics = Follower(options.run_dir / "trainer/metrics.jsonl")
        self._started_unix_s = time.time()

    def run(self) -> int:
        code, ended = 0, "complete"
        self._write("")
        handlers = {n: signal.signal(n, self._interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._phases()
        except Interrupted:
            code, ended = EXIT_INTERRUPTED, "it was interrupted with Ctrl-C"
        except EntracteError as error:
            code, ended = EXIT_PROCESS_DIED, str(error)
        finally:
            self._stop_all()
        self._enter("report")
        self._write(ended)
        page = self._report()
        self._screen.close()
        if code:
            self.words.append(f"robot-run demo: {ended}")
        if page is not None:
            self.words.append(f"report: {page}")
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return code or (0 if page is not None else EXIT_PROCESS_DIED)

    # The phases

    def _phases(self) -> None:
        options = self.options
        self._prepare()
        self._enter("base")
        self._evaluate("base")
        trainer, endpoints = self._wait_for_trainer()
        robot_dir = options.run_dir / "robot"
        robot_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(next((options.run_dir / "trainer").rglob("trainer.pub")), robot_dir)
        self._enter("refine")
        robot = self._start("robot", plan.robot_command(options, endpoints))
        self._watch(robot, robot_dir)
        self._stop(trainer)
        self._enter("final")
        self._evaluate("final")

    def _evaluate(self, which: str) -> None:
        program = self._start(which, plan.evaluation_command(self.options, which))
        self._watch(program, self.options.run_dir / "eval" / which / "run")
        result = program.result()
        if "of" in result:
            self.state.results[which] = (int(result["successes"]), int(result["of"]))

    def _prepare(self) -> None:
        """On the other core, while the base policy is evaluated: the demonstrations are recorded where
        they are absent, then the trainer loads its models."""
        options = self.options
        if options.must_record:
            shutil.rmtree(options.demonstrations, ignore_errors=True)
            self._start("demonstrations", plan.recording_command(options))
        else:
            self._start("trainer", plan.trainer_command(options))

    def _go_on_preparing(self) -> None:
        recording, trainer = self._named("demonstrations"), self._named("trainer")
        if recording is None or trainer is not None or recording.code is None:
            return
        if recording.code:
            raise self._died(recording)
        self.options.recorded_mark.touch()
        self._start("trainer", plan.trainer_command(self.options))

    def _named(self, name: str) -> Program | None:
        return next((program for program in self._programs if program.name == name), None)

    def _wait_for_trainer(self) -> tuple[Program, dict[str, str]]:
        path = self.options.run_dir / "trainer/endpoints.json"
        give_up_s = math.inf
        while not path.exists():
            trainer = self._named("trainer")
            self.state.now = "waiting for the trainer" if trainer else "recording demonstrations"
            if trainer is not None and math.isinf(give_up_s):
                give_up_s = time.monotonic() + TRAINER_START_S
            self._tick()
            if time.monotonic() > give_up_s:
                raise Died(f"the trainer was not ready after {TRAINER_START_S:.0f} s")
        trainer = self._named("trainer")
        assert trainer is not None
        return trainer, dict(atomic.read_json(path))

    # Watching

    def _watch(self, program: Program, run_dir: Path) -> None:
        """Until `program` has ended well. Raises `Died` if it, or the trainer, did not; `Interrupted`."""
        with contextlib.closing(Eye(run_dir)) as eye:
            while program.code is None:
                self._tick(eye)
            self._tick(eye)
        if program.code:
            raise self._died(program)

    def _tick(self, eye: Eye | None = None) -> None:
        time.sleep(POLL_S)
        for row in self._metrics.rows():
            view.take_metrics(self.state, row)
        if eye is not None:
            eye.look(self.state)
        self._screen.show(self.state)
        if self._interrupts:
            raise Interrupted
        self._go_on_preparing()
        trainer = self._named("trainer")
        if trainer is not None and trainer.code is not None and not self._stopping:
            raise self._died(trainer)

    def _died(self, program: Program) -> Died:
        how = f"exit code {program.code}"
        if program.code is not None and program.code < 0:
            how = f"signal {signal.Signals(-program.code).name}"
        for line in program.tail():
            self.words.append(f"  {program.name}: {line}")
        return Died(f"the process '{program.name}' ended with {how}; its log is {program.log}")

    def _enter(self, phase: str) -> None:
        self.state.enter(phase, time.monotonic())
        self._screen.show(self.state)

    # Processes

    def _start(self, name: str, command: list[str]) -> Program:
        if self._interrupts:
            raise Interrupted
        program = Program.start(name, command, self.options.run_dir / "logs")
        self._programs.append(program)
        self._write("")
        return program

    def _stop(self, program: Program) -> None:
        """In a thread, so that the view goes on: the trainer finishes the work at hand."""
        self._stopping = True
        # robot-run takes Ctrl-C as "finish the tick, hold, leave".
        number = signal.SIGTERM if program.name == "trainer" else signal.SIGINT
        patience_s = STOP_PATIENCE_S.get(program.name, STOP_PATIENCE_S["robot"])
        worker = threading.Thread(target=program.stop, args=(number, patience_s))
        worker.start()
        self.state.now = f"stopping {program.name}"
        while worker.is_alive():
            worker.join(POLL_S)
            self._screen.show(self.state)
            if self._interrupts > 1 and program.code is None:
                program.process.kill()

    def _stop_all(self) -> None:
        """The robot first: what it has recorded should still reach the trainer."""
        for program in reversed(self._programs):
            if program.code is None:
                self._stop(program)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1

    # What is left behind

    def _write(self, ended: str) -> None:
        """demo.json, rewritten whenever something changed: a kill leaves one that says "still running"."""
        options = self.options
        with contextlib.suppress(OSError):
            atomic.write_json(
                options.run_dir / plan.MARK,
                {
                    "task": options.task,
                    "reward": options.reward,
                    "seed": options.seed,
                    "iterations": options.iterations,
                    "started_unix_s": self._started_unix_s,
                    "ended_unix_s": time.time() if ended else None,
                    "ended": ended or "the demo was killed",
                    "options": {
                        "episodes": options.episodes,
                        "evaluation_episodes": options.evaluation_episodes,
                        "pretrained": str(options.pretrained),
                        "trainer_set": list(options.trainer_set),
                        "robot_set": list(options.robot_set),
                    },
                    "versions": _versions(),
                    "processes": [
                        {
                            "name": p.name,
                            "command": plan.readable(p.command),
                            "exit_code": p.code,
                            "log_tail": p.tail() if p.code else [],
                        }
                        for p in self._programs
                    ],
                },
            )

    def _report(self) -> Path | None:
        page = self.options.output / "index.html"
        program = Program.start(
            "report", plan.report_command(self.options), self.options.run_dir / "logs"
        )
        give_up_s = time.monotonic() + REPORT_S
        while program.code is None and time.monotonic() < give_up_s:
            time.sleep(POLL_S)
            self._screen.show(self.state)
        if program.code == 0:
            return page.resolve()
        program.stop(signal.SIGTERM, 5.0)
        again = plan.readable(program.command)
        self.words += [f"  report: {line}" for line in program.tail()]
        self.words.append(f"robot-run demo: the report failed; to try again: {again}")
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _fresh(options: Options) -> None:
    """An empty run folder; what an earlier demo left there is kept once. Both were checked to be demos'."""
    if options.run_dir.exists() and any(options.run_dir.iterdir()):
        shutil.rmtree(options.previous, ignore_errors=True)
        options.run_dir.rename(options.previous)
    options.run_dir.mkdir(parents=True, exist_ok=True)


def demo(
    *,
    task: Annotated[str, typer.Option(help="open-drawer or put-on")] = "open-drawer",
    seed: Annotated[
        int, typer.Option(min=0, max=plan.LAST_SEED, help="of refinement, noise and scenes")
    ] = 0,
    iterations: Annotated[int, typer.Option(help="rounds of episodes, update and push")] = 30,
    reward: Annotated[
        str, typer.Option(help=f"what refinement learns from: {', '.join(plan.REWARDS)}")
    ] = "demo",
    episodes: Annotated[int, typer.Option(help="training episodes per iteration")] = 10,
    evaluation_episodes: Annotated[int, typer.Option(help="scenes of each evaluation")] = 50,
    run_dir: Annotated[Path, typer.Option(help="run folder")] = Path("run/demo"),
    output: Annotated[Path, typer.Option(help="folder of the report")] = Path("report"),
    pretrained: Annotated[Path, typer.Option(help="folder of packages and demonstrations")] = Path(
        "pretrained"
    ),
    trainer_set: Annotated[
        list[str] | None, typer.Option(help="override of the trainer: refiner.kind=bestofn")
    ] = None,
    robot_set: Annotated[
        list[str] | None, typer.Option(help="override of the robot: policy.execute_steps=4")
    ] = None,
) -> None:
    """The whole loop on the simulated bench, and a report of it. Ctrl-C leaves a report of what was done."""
    options = Options(
        task.replace("-", "_"),
        seed,
        iterations,
        episodes,
        evaluation_episodes,
        reward,
        run_dir.resolve(),
        output.resolve(),
        pretrained.resolve(),
        tuple(trainer_set or ()),
        tuple(robot_set or ()),
    )
    plan.check(options)
    _fresh(options)

    live = sys.stdout.isatty()
    screen: Screen = LiveScreen() if live else PlainScreen(lambda line: print(line, flush=True))
    run = Demo(options, screen)
    code = run.run()
    for line in run.words:
        typer.echo(line)
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the command to `robot-run`."""
    app.command()(demo)
