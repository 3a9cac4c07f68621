"""Enrolment: both ends show one code, and whoever stands in between shows another."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from contracts import enrolment
from contracts.enrolment import Ask, Commitment, EnrolmentFailed, Number
from contracts.files import question
from contracts.files.keys import KeyStore
from contracts.sockets.curve import new_pair
from contracts.sockets.enrolling import enrol_robot, enrol_with_trainer

SIGNING = "ab" * 32


class Ends:
    """Both ends as threads over a real socket; each `decide` is told here."""

    def __init__(self, robot_says: bool = True, trainer_says: bool = True) -> None:
        self.robot, self.trainer = new_pair(), new_pair()
        self.codes: dict[str, str] = {}
        self.found: dict[str, object] = {}
        self._says = {"robot": robot_says, "trainer": trainer_says}
        self._bound, self._address = threading.Event(), ""
        self._threads = [threading.Thread(target=self._serve), threading.Thread(target=self._ask)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(60)

    def _decide(self, end: str):
        def decide(code: str, _name: str) -> bool:
            self.codes[end] = code
            return self._says[end]

        return decide

    def _kept(self, end: str, work) -> None:
        try:
            self.found[end] = work()
        except EnrolmentFailed as error:
            self.found[end] = str(error)

    def _listening(self, address: str) -> None:
        self._address = address
        self._bound.set()

    def _serve(self) -> None:
        self._kept(
            "trainer",
            lambda: enrol_robot(
                "tcp://127.0.0.1:*",
                "lab",
                self.trainer.public,
                SIGNING,
                self._decide("trainer"),
                patience_s=20.0,
                listening=self._listening,
            ),
        )

    def _ask(self) -> None:
        assert self._bound.wait(20)
        ask = Ask(enrolment.PROTOCOL, "arm", self.robot.public)
        self._kept(
            "robot",
            lambda: enrol_with_trainer(self._address, ask, self._decide("robot"), patience_s=20.0),
        )


def test_both_ends_show_one_code_and_learn_each_others_keys() -> None:
    ends = Ends()
    ends.run()
    assert ends.codes["robot"] == ends.codes["trainer"] and len(ends.codes["robot"]) == 6
    ask, said = ends.found["trainer"], ends.found["robot"]
    assert isinstance(ask, Ask) and (ask.robot_id, ask.key) == ("arm", ends.robot.public)
    assert isinstance(said, Commitment)
    assert (said.trainer_id, said.key, said.signing_key) == ("lab", ends.trainer.public, SIGNING)


@pytest.mark.parametrize("refuses", ["robot", "trainer"])
def test_one_no_is_enough_for_both(refuses: str) -> None:
    ends = Ends(robot_says=refuses != "robot", trainer_says=refuses != "trainer")
    ends.run()
    assert all("refused" in str(found) for found in ends.found.values()), ends.found


def said_by(number: bytes, ask: Ask, key: str) -> Commitment:
    binds = enrolment.commit(number, ask, "lab", key, SIGNING)
    return Commitment(enrolment.PROTOCOL, "lab", key, SIGNING, binds)


def test_a_man_in_between_makes_the_codes_differ() -> None:
    """He has keys of his own towards each end, and must commit himself before he knows the other's number."""
    same = 0
    for _ in range(200):
        his = new_pair().public
        true_ask = Ask(1, "arm", new_pair().public)
        his_ask = msgspec.structs.replace(true_ask, key=his)
        robot, trainer, mine = (enrolment.new_number() for _ in range(3))
        to_trainer = said_by(trainer, his_ask, new_pair().public)
        to_robot = said_by(mine, true_ask, his)
        same += enrolment.code(his_ask, to_trainer, mine, trainer) == enrolment.code(
            true_ask, to_robot, robot, mine
        )
    assert same == 0


def test_a_number_chosen_after_the_robots_is_known_is_refused() -> None:
    ask, key = Ask(1, "arm", new_pair().public), new_pair().public
    said = said_by(enrolment.new_number(), ask, key)
    with pytest.raises(EnrolmentFailed, match="committed"):
        enrolment.check_revealed(ask, said, enrolment.new_number())


@pytest.mark.parametrize("field", ["trainer_id", "key", "signing_key"])
def test_every_field_is_bound_by_the_commitment_and_by_the_code(field: str) -> None:
    number, robot = enrolment.new_number(), enrolment.new_number()
    ask = Ask(1, "arm", new_pair().public)
    said = said_by(number, ask, new_pair().public)
    other = msgspec.structs.replace(said, **{field: "x" + getattr(said, field)[1:]})
    assert enrolment.code(ask, said, robot, number) != enrolment.code(ask, other, robot, number)
    with pytest.raises(EnrolmentFailed):
        enrolment.check_revealed(ask, other, number)


@pytest.mark.parametrize("field", ["robot_id", "key"])
def test_what_the_robot_says_of_itself_is_bound_likewise(field: str) -> None:
    number, robot = enrolment.new_number(), enrolment.new_number()
    ask = Ask(1, "arm", new_pair().public)
    said = said_by(number, ask, new_pair().public)
    other = msgspec.structs.replace(ask, **{field: "x" + getattr(ask, field)[1:]})
    assert enrolment.code(ask, said, robot, number) != enrolment.code(other, said, robot, number)
    with pytest.raises(EnrolmentFailed):
        enrolment.check_revealed(other, said, number)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", bytes(5000), enrolment.encode(Number(bytes(300))), b"\x91" * 3000],
    ids=["empty", "a map", "too large", "long field", "deep"],
)
def test_noise_is_one_typed_error(data: bytes) -> None:
    with pytest.raises(EnrolmentFailed):
        enrolment.decode(data)


def test_another_command_answers_through_a_private_file(tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").own(make=True)
    for code, expected in (("123456", True), ("123457", False)):
        found: list[bool] = []
        asking = threading.Thread(
            target=lambda f=found: f.append(question.ask(tmp_path / "keys", "123456", 20.0))
        )
        asking.start()
        while not (tmp_path / "keys" / question.ASKED).exists():
            pass
        assert question.answer(tmp_path / "keys", code) is expected
        asking.join(20)
        assert found == [expected]


ASKS = """
import fcntl, sys, termios
from pathlib import Path
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from contracts.files import question
print(question.ask(Path(sys.argv[1]), "123456", 30.0))
"""


@pytest.mark.parametrize(("then", "expected"), [(b"n\n", "False"), (b"123 456\n", "True")])
def test_what_was_typed_before_the_code_was_shown_is_no_answer(
    tmp_path: Path, then: bytes, expected: str
) -> None:
    """A yes to a code that nobody has compared lets in whoever stands in between."""
    keys = tmp_path / "keys"
    KeyStore(keys).own(make=True)
    terminal, inside = pty.openpty()
    command = [sys.executable, "-c", ASKS, str(keys)]
    ahead = b"y\n" if expected == "False" else b"n\n"
    os.write(terminal, ahead + b"12")
    with subprocess.Popen(
        command, stdin=inside, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as asking:
        while not (keys / question.ASKED).exists() and asking.poll() is None:
            time.sleep(0.01)
        os.write(terminal, then)
        said = asking.communicate(timeout=60)[0]
    os.close(terminal)
    os.close(inside)
    assert said.strip() == expected


def test_where_nobody_waits_the_robot_is_told_what_to_look_for() -> None:
    ask = Ask(enrolment.PROTOCOL, "arm", new_pair().public)
    with pytest.raises(
        EnrolmentFailed, match=r"does robot-trainer enroll wait at tcp://127\.0\.0\.1:9,"
    ):
        enrol_with_trainer("tcp://127.0.0.1:9", ask, lambda *_: True, patience_s=0.2)
