"""The operator's page in a real browser and at the socket, against real runs on the bench."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from chromium import BROWSER, Browser
from people import Person, expert, robot, rows, ticks
from robots import policy_package, until

from contracts.errors import ConfigError
from runtime.board import LoopState
from runtime.cautions import Caution
from runtime.config import load_config
from runtime.operator.attend import read_page
from runtime.operator.commands import Answer, Command
from runtime.operator.doors import PAGE_HEADER
from runtime.operator.feed import QUEUE, Feed
from runtime.operator.floor import LATE_S, Flag, Phase, read_phase
from runtime.processes.supervisor import Supervisor
from runtime.run import RunPlan

PAGE = ["operator.web=true", "operator.web_port=0"]


def _page(machine: Supervisor) -> str:
    until(lambda: read_page(Path(machine.run.run_dir)) is not None)
    found = read_page(Path(machine.run.run_dir))
    assert found is not None
    return found.url


def _pictures(tmp_path: Path) -> Path:
    """Where screenshots go: ENTRACTE_SCREENSHOTS names a folder to look at them in."""
    return Path(os.environ.get("ENTRACTE_SCREENSHOTS", tmp_path / "screenshots"))


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_every_button_and_key_works_against_a_real_run(tmp_path: Path) -> None:  # noqa: PLR0915
    """Needs nothing but the browser; the arm, the bench and all processes are those of a run."""
    package = policy_package(tmp_path / "package").folder
    overrides = [*PAGE, "episode.label=keys", "episode.reset=operator", f"policy.package={package}"]
    looks = _pictures(tmp_path)
    plan = RunPlan(purpose="evaluate", episodes=20, sink="none")
    with robot(tmp_path, plan, *overrides) as machine, Browser() as page:
        board, run = machine.board, machine.run

        def phase_is(phase: Phase) -> None:
            until(lambda: read_phase(board)[0] is phase)

        def press(name: str) -> None:
            selector = f'button[data-command="{name}"]'
            page.until(f"!document.querySelector({selector!r}).disabled")
            page.click(selector)

        def strike(key: str, code: int, name: str) -> None:
            selector = f'button[data-command="{name}"]'
            page.until(f"document.querySelector({selector!r})?.disabled === false")
            page.key(key, code)

        def begin() -> None:
            phase_is(Phase.RESET)
            press("reset_done")
            until(lambda: read_phase(board)[0] is Phase.RUNNING and board.step > 3)

        def ended(number: int) -> dict[str, object]:
            until(lambda: len(rows(run)) == number)
            return rows(run)[-1]

        page.open(_page(machine))
        phase_is(Phase.RESET)
        page.until("document.querySelector('#state').textContent === 'set the scene'")
        page.look(looks / "idle-light.png", 1280, 900)
        assert board.step == 0

        begin()
        page.until("document.querySelectorAll('img[data-picture]').length === 2")
        assert page.run("document.querySelector('img').naturalWidth") == 128
        first = int(page.run("document.querySelector('img').dataset.picture"))
        page.until(f"document.querySelector('img').dataset.picture > {first + 5}")

        press("pause")
        until(lambda: board.loop_state == LoopState.HOLD)
        page.until("document.querySelector('#state').textContent === 'paused'")
        step = board.step
        press("resume")
        until(lambda: board.step > step + 3)

        press("take_over")
        page.until("document.querySelector('#state').textContent === 'in your hands'")
        before = ticks(run)[-1].action[0]
        page.hold("#jog button[aria-label='shoulder pan up']", 1.0)
        assert ticks(run)[-1].action[0] > before + 5.0
        time.sleep(0.6)
        stopped = ticks(run)[-1].action
        time.sleep(0.3)
        assert np.abs(ticks(run)[-1].action - stopped).max() < 0.1, "let go, the arm stands"
        press("hand_back")
        until(lambda: Flag.TAKEN_OVER not in read_phase(board)[1])

        press("success")
        assert ended(1)["operator_success"] is True
        begin()
        press("failure")
        assert ended(2)["operator_success"] is False
        begin()
        press("rerecord")
        assert ended(3)["reason"] == "rerecord"
        begin()
        press("end")
        phase_is(Phase.LABEL)
        press("success")
        found = ended(4)
        assert (found["reason"], found["operator_success"]) == ("operator", True)
        page.until("document.querySelector('#success').textContent === '2 of 3'")

        # The same by keys.
        phase_is(Phase.RESET)
        page.until("!document.querySelector('button[data-command=reset_done]').disabled")
        time.sleep(LATE_S)
        strike("ArrowRight", 39, "reset_done")
        until(lambda: read_phase(board)[0] is Phase.RUNNING and board.step > 3)
        strike(" ", 32, "pause")
        until(lambda: board.loop_state == LoopState.HOLD)
        page.until("document.querySelector('#state').textContent === 'paused'")
        strike(" ", 32, "resume")
        until(lambda: board.loop_state == LoopState.RUNNING)
        strike("ArrowLeft", 37, "rerecord")
        assert ended(5)["reason"] == "rerecord"
        begin()
        strike("f", 70, "failure")
        assert ended(6)["operator_success"] is False

        begin()
        page.click("#stop")  # asks nothing
        until(lambda: board.loop_state == LoopState.ESTOP)
        outcome = machine.wait()
        page.until(
            "document.querySelector('#reason').textContent.includes('asked for by a person')"
        )
        page.look(looks / "fault-dark.png", 1280, 900, dark=True)
        page.look(looks / "fault-phone.png", 390, 844)
        assert outcome.code != 0
        machine.close()
        page.until("document.querySelector('#ask').textContent === 'This run has ended.'")
        assert page.run("document.querySelector('#stop').disabled") is True
        assert "asked for by a person" in page.run("document.querySelector('#reason').textContent")
        assert page.errors == []


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_signals_and_figures_are_shown_in_light_dark_and_on_a_phone(tmp_path: Path) -> None:
    looks = _pictures(tmp_path)
    plan = expert(50, labels=True)
    with robot(tmp_path, plan, *PAGE) as machine, Browser() as page:
        page.open(_page(machine))
        for name in ("process", "completion"):
            page.until(f"document.querySelector('#{name}').textContent !== '–'")
        page.until("document.querySelectorAll('img[data-picture]').length === 2")
        page.until("document.querySelector('#state').textContent === 'running'")
        assert page.run("document.querySelector('#nosignals').hidden") is True
        figures = page.run("document.querySelector('#details').innerText")
        for words in ("of 30 Hz", "watching", "lateness", "policy version"):
            assert words in figures
        assert "not in force" not in figures
        machine.board.cautions = int(Caution.NO_WORKSPACE)  # as control finds with another arm
        shown = "document.querySelector('#details').innerText"
        page.until(f"{shown}.includes('not in force') && {shown}.includes('gate.workspace_*')")
        for scheme, width, height in (
            ("light", 1280, 900),
            ("dark", 1280, 900),
            ("phone", 390, 844),
        ):
            page.look(looks / f"running-{scheme}.png", width, height, dark=scheme == "dark")
            wide = page.run("document.documentElement.scrollWidth <= innerWidth")
            assert wide, f"{scheme}: nothing to be reached by scrolling sideways"
            stop = page.run(
                "document.querySelector('#stop').getBoundingClientRect().bottom <= innerHeight"
            )
            assert stop, f"{scheme}: STOP is in sight without scrolling"
        assert page.errors == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("served")
    token = folder / "token"
    token.write_text("a" * 31 + "b\n")
    # All of loopback counts as loopback: the token is asked for because there is one.
    overrides = [*PAGE, f"operator.token_file={token}", "operator.web_hosts=[robot.local]"]
    with robot(folder / "run", expert(1, "idle"), *overrides) as machine:
        _page(machine)
        yield machine


def _ask(
    machine: Supervisor, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    where = urlsplit(_page(machine))
    assert where.hostname and where.port
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=5)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(errors="replace"), answer.headers
    connection.close()
    return found


def test_nothing_is_shown_or_done_without_token_own_name_and_the_pages_key(
    served: Supervisor,
) -> None:
    cookie = "entracte_token=" + "a" * 31 + "b"
    end = json.dumps({"command": "end"})
    for path in ("/", "/status", "/events", "/pictures?front=0"):
        assert _ask(served, "GET", path)[0] == 403, path
        assert _ask(served, "GET", path, Cookie="entracte_token=" + "a" * 32)[0] == 403
        rebound = _ask(served, "GET", path, Cookie=cookie, Host="evil.example:8700")
        assert rebound[0] == 421, "a name that somebody pointed at this machine"
    status, _, headers = _ask(served, "GET", "/?token=" + "a" * 31 + "b")
    assert status == 303
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]

    status, text, headers = _ask(served, "GET", "/", Cookie=cookie)
    assert status == 200
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert "a" * 31 not in text
    assert _ask(served, "GET", "/status", Cookie=cookie, Host="robot.local")[0] == 200
    key = text.split("&quot;key&quot;: &quot;")[1].split("&quot;")[0]

    ticks_before = served.board.episodes_done
    forged = {"Content_Type": "text/plain"}  # what a form on another page can send
    assert _ask(served, "POST", "/command", end, Cookie=cookie, **forged)[0] == 403
    assert _ask(served, "POST", "/command", end, Cookie=cookie, X_Entracte_Page="guess")[0] == 403
    away = {"Cookie": cookie, PAGE_HEADER.replace("-", "_"): key, "Origin": "http://evil.example"}
    assert _ask(served, "POST", "/command", end, **away)[0] == 403
    assert _ask(served, "POST", "/command", end, X_Entracte_Page=key)[0] == 403, "no token"
    assert served.board.episodes_done == ticks_before

    ours = {"Cookie": cookie, "X_Entracte_Page": key}
    until(lambda: served.board.control_ready == 1)
    pause = json.dumps({"command": "pause"})
    assert _ask(served, "POST", "/command", pause, **ours)[:2] == (200, '{"answer": "done"}')
    for path, body, wanted in (
        ("/command", '{"command": "fly"}', 400),
        ("/command", "[1]", 400),
        ("/command", '{"command": "resume"}', 400),
        ("/command", '{"command": "resume", "heard_s": 0}', 400),
        ("/command", '{"command": "resume", "heard_s": 0, "page": "p", "number": 1}', 409),
        ("/command", '{"command": "resume", "heard_s": 0, "page": "p", "number": "1"}', 400),
        ("/command", '{"command": "resume", "heard_s": 0, "page": ["p"], "number": 1}', 400),
        ("/command", "x" * 5000, 413),
        ("/command", "[" * 4096, 400),
        ("/jog", '{"shares": ["a"]}', 400),
        ("/jog", '{"shares": [1' + "0" * 400 + "]}", 400),
        ("/jog", '{"shares": [NaN]}', 400),
        ("/jog", '{"shares": [1]}', 400),
        ("/jog", '{"shares": [1], "heard_s": 1' + "0" * 400 + "}", 400),
        ("/jog", '{"shares": [1], "heard_s": 1e9}', 400),
        ("/jog", '{"shares": [1], "heard_s": 1e9, "page": "p", "number": 1}', 409),
        ("/nothing", "{}", 404),
    ):
        assert _ask(served, "POST", path, body, **ours)[0] == wanted, (path, body)
    for path in (
        "/page.html",
        "/../config.json",
        "/pictures",
        "/pictures?side=0",
        "/pictures?front=x",
    ):
        assert _ask(served, "GET", path, Cookie=cookie)[0] == 404, path


def test_a_page_for_the_network_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open to a network"):
        load_config(None, ["operator.web=true", "operator.web_address=0.0.0.0"])
    (tmp_path / "short").write_text("secret")
    plan = expert(1, "idle")
    overrides = [*PAGE, f"operator.token_file={tmp_path / 'short'}", "episode.max_s=0.5"]
    with robot(tmp_path / "run", plan, *overrides) as machine:
        assert machine.wait().code == 0, "the run goes on without its page"
        log = (tmp_path / "run" / "logs" / "operator.log").read_text()
        assert "16 letters and digits or more" in log
        assert "Traceback" not in log


def test_a_viewer_that_stops_reading_loses_events_and_nobody_else_does(tmp_path: Path) -> None:
    with robot(tmp_path, expert(1), *PAGE) as machine:
        where = urlsplit(_page(machine))
        assert where.hostname and where.port
        deaf = socket.create_connection((where.hostname, where.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host = f"Host: {where.netloc}\r\n\r\n"
        deaf.sendall(f"GET /events HTTP/1.1\r\n{host}".encode())
        hasty = socket.create_connection((where.hostname, where.port))
        hasty.sendall(f"GET /pictures?front=0 HTTP/1.1\r\n{host}".encode() * 50)  # reads no answer
        until(lambda: machine.board.step > 5)
        person = Person(machine.board, machine.run)
        started_s, heard, dropped = time.monotonic(), 0, 0
        reader = socket.create_connection((where.hostname, where.port))
        reader.settimeout(2.0)
        reader.sendall(f"GET /events HTTP/1.1\r\n{host}".encode())
        with reader.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"data: "):
                    heard += 1
                    dropped = json.loads(line[6:])["viewer_events_dropped"]
                if dropped > 3 or time.monotonic() - started_s > 60:
                    break
        seconds = time.monotonic() - started_s
        assert dropped > 3
        assert heard > 2.5 * seconds, "the one that reads gets its five a second"
        assert person.ask(Command.PAUSE) is Answer.DONE
        assert machine.board.watchdog_tripped == 0
        for one in (deaf, hasty, reader):
            one.close()


def test_a_page_that_is_killed_comes_back_and_commands_are_taken_on(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = ["operator.web=true", f"operator.web_port={port}"]
    with robot(tmp_path, expert(3), *overrides) as machine:
        text = _ask(machine, "GET", "/")[1]
        key = text.split("&quot;key&quot;: &quot;")[1].split("&quot;")[0]
        assert machine.run.page_key_path.stat().st_mode & 0o777 == 0o600
        (tmp_path / "operator.json").unlink()
        child = machine.child("operator")
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        machine._look_after()
        _page(machine)
        until(lambda: read_phase(machine.board)[0] is Phase.RUNNING)
        end = json.dumps({"command": "end", "heard_s": time.monotonic(), "page": "p", "number": 1})
        answer = _ask(machine, "POST", "/command", end, X_Entracte_Page=key)
        assert answer[:2] == (200, '{"answer": "done"}')
        until(lambda: machine.board.episodes_done == 1)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_an_open_page_tells_silence_and_other_hands_and_outlives_its_server(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = ["operator.web=true", f"operator.web_port={port}", "operator.keys=false"]
    with robot(tmp_path, expert(3), *overrides) as machine, Browser() as page:
        board, child = machine.board, machine.child("operator")

        def shows(element: str, words: str) -> None:
            page.until(f"document.querySelector('#{element}')?.textContent.includes({words!r})")

        page.open(_page(machine))
        shows("state", "running")
        person = Person(board, machine.run, "terminal")
        assert person.ask(Command.TAKE_OVER) is Answer.DONE
        shows("ask", "The terminal moves the arm")
        assert page.run("document.querySelector('#jog').hidden") is True
        assert person.ask(Command.HAND_BACK) is Answer.DONE
        shows("state", "running")

        page.run("window.before = 1, about.session = 'another run'")
        page.until("window.before === undefined")
        shows("state", "running")

        late = "{...s, signals: [], loop_age_s: 1.2}"  # and a watchdog that says nothing either
        page.run(
            f"fetch('/status').then((a) => a.json()).then((s) => window.seen = (show({late}),"
            " document.querySelector('#state').textContent))"
        )
        assert page.run("window.seen") == "loop stands still"

        assert child.process is not None
        child.process.send_signal(signal.SIGSTOP)
        shows("state", "no connection")
        page.click("#pause")
        shows("answer", "NOT SENT")
        child.process.kill()
        child.process.wait()
        machine._look_after()
        shows("state", "running")
        page.click("button[data-command=end]")
        until(lambda: board.episodes_done == 1)


def test_a_page_that_cannot_be_served_is_told_at_the_terminal(tmp_path: Path) -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        overrides = ["operator.web=true", f"operator.web_port={port}", "operator.keys=false"]
        with robot(tmp_path, expert(1, "idle"), *overrides) as machine:
            machine.say = said.append
            until(lambda: machine.child("operator").code is not None)
            for _ in range(3):
                machine._look_after()
            assert machine.board.stop_requested == 0
    assert len(said) == 1
    assert "without its operator" in said[0]
    assert f"can't be served on 127.0.0.1:{port}" in said[0]


def test_a_feed_drops_the_oldest_for_a_slow_viewer_only() -> None:
    feed = Feed(2)
    slow, quick = feed.join(), feed.join()
    assert slow is not None and quick is not None
    assert feed.join() is None
    got = []
    for number in range(20):
        feed.publish(str(number).encode())
        got.append(quick.next(0.0))
    assert got == [str(number).encode() for number in range(20)]
    assert (slow.dropped, quick.dropped, feed.dropped) == (20 - QUEUE, 0, 20 - QUEUE)
    assert slow.next(0.0) == str(20 - QUEUE).encode()
    feed.leave(slow)
    assert (feed.viewers, feed.dropped) == (1, 20 - QUEUE)
