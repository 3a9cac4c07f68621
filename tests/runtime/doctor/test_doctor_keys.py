"""What `robot-run doctor` says of keys: missing, open to others, about to end, refused by the trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from contracts.files.keys import KeyStore
from contracts.sockets import Doorman, Pass, open_socket
from contracts.sockets.curve import new_pair
from runtime.config import LinkSection, RobotConfig
from runtime.doctor.keys import keys

DAY_S = 86400.0


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[tuple[KeyStore, str]]:
    store = KeyStore(tmp_path / "trainer")
    with zmq.Context() as context:
        door = Doorman(context, store.own(make=True), load=store.allow_list, stamp=store.stamp)
        socket = open_socket(context, zmq.ROUTER, bind="tcp://127.0.0.1:*", security=door)
        door.start()
        yield store, socket.getsockopt_string(zmq.LAST_ENDPOINT)
        socket.close()
        door.close()


def found(address: str, run_dir: Path | None) -> dict[str, tuple[str, str]]:
    link = LinkSection(weights=address, curve="always")
    lines = keys(RobotConfig(link=link), run_dir)
    return {line.what: (line.status, line.found) for line in lines}


def test_keys_that_are_well_and_taken_and_then_not(
    tmp_path: Path, trainer: tuple[KeyStore, str]
) -> None:
    theirs, address = trainer
    run_dir = tmp_path / "robot"
    assert found(address, run_dir)["keys"][0] == "fail"

    mine = KeyStore(run_dir / "keys")
    theirs.add(Pass(name="arm", key=mine.own(make=True).public, enrolled_unix_s=1.0))
    server = theirs.own().public
    mine.add(Pass(name="lab", key=server, enrolled_unix_s=1.0))
    (run_dir / "trainer.pub").write_text("ab" * 32)
    time.sleep(0.6)  # the doorman reads its list
    said = found(address, run_dir)
    assert {status for status, _ in said.values()} == {"ok"}, said
    assert mine.own().secret not in str(said)

    soon = Pass(
        name="lab", key=server, enrolled_unix_s=1.0, expires_unix_s=time.time() + 3.5 * DAY_S
    )
    mine.add(soon)
    theirs.revoke("arm", 5.0)
    (run_dir / "trainer.pub").unlink()
    time.sleep(0.6)
    said = found(address, run_dir)
    assert {what: status for what, (status, _) in said.items()} == {
        "keys": "ok",
        "trainer's key": "warn",
        "releases": "fail",
        "let in": "warn",
    }
    assert "ends in 3 days" in said["trainer's key"][1] or "in 4 days" in said["trainer's key"][1]

    (run_dir / "keys" / "curve.key").chmod(0o644)
    status, words = found(address, run_dir)["keys"]
    assert status == "fail" and "0644" in words


def test_loopback_needs_none_and_a_run_folder_is_asked_for() -> None:
    assert [line.status for line in keys(RobotConfig(), None)] == ["ok"]
    assert found("tcp://127.0.0.1:1", None)["keys"][0] == "warn"


def test_a_key_of_another_trainer_is_not_connected_to(
    tmp_path: Path, trainer: tuple[KeyStore, str]
) -> None:
    theirs, address = trainer
    mine = KeyStore(tmp_path / "robot" / "keys")
    theirs.add(Pass(name="arm", key=mine.own(make=True).public, enrolled_unix_s=1.0))
    mine.add(Pass(name="lab", key=new_pair().public, enrolled_unix_s=1.0))
    time.sleep(0.6)
    assert found(address, tmp_path / "robot")["let in"][0] == "warn"
