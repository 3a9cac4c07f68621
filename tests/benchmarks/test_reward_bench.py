"""`robot-bench reward`: a row a backend, absent ones with their reason, memory that is the backend's own."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.machine import resident_mb
from benchmarks.reward import Found, Job, Row, _in_its_process, measure, table
from contracts.errors import ConfigError

PACKAGE = Path(__file__).parents[2] / "pretrained" / "reward-zero-shot"


def test_what_is_present_is_measured_and_what_is_absent_says_why() -> None:
    found = measure(PACKAGE, only=["robot", "edge-torch", "endpoint"], rounds=5)
    rows = {row.backend: row for row in found.rows}
    assert not rows["robot"].absent and not rows["edge-torch"].absent
    for row in (rows["robot"], rows["edge-torch"]):
        assert 0 < row.p50_s <= row.p99_s and row.per_s > 0
        assert 0.2 < row.over_bare < 50
        assert row.peak_mb > row.start_mb > 10
    # torch alone is larger than all that the robot runs.
    assert rows["edge-torch"].peak_mb > 1.5 * rows["robot"].peak_mb
    assert "--endpoint" in rows["endpoint"].absent
    assert msgspec.json.decode(msgspec.json.encode(found), type=Found) == found
    text = table(found)
    assert "absent: no endpoint" in text and "session.run" in text


def test_memory_is_the_backends_own_and_not_of_who_started_it() -> None:
    ours = np.ones(400 << 20, np.uint8)
    assert resident_mb()[1] > 400
    row = _in_its_process(Job("robot", str(PACKAGE), rounds=3), 1)
    del ours
    assert 0 < row.peak_mb < 400


def test_a_backend_that_fails_costs_its_own_row_alone(tmp_path: Path) -> None:
    found = measure(tmp_path / "nothing", only=["robot", "edge"], rounds=3)
    assert all("nothing" in row.absent for row in found.rows)
    with pytest.raises(ConfigError, match="--only"):
        measure(PACKAGE, only=["robots"])


def test_a_table_says_that_the_model_is_one_of_random_weights() -> None:
    row = Row("vlm", p50_s=0.1, p99_s=0.2, what="a video", many="eight")
    assert "RANDOM" in table(Found((row,), 2, 0.0, 1, True))
    assert "RANDOM" not in table(Found((row,), 2, 0.0, 1, False))


class _Answers(BaseHTTPRequestHandler):
    """Says 4 to whoever asks."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "ANSWER: 4"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        data = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_an_endpoint_is_measured_beside_a_word_of_the_same_server() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        job = Job("endpoint", str(PACKAGE), endpoint=url, endpoint_model="tiny", rounds=18)
        row = _in_its_process(job, 1)
        server.shutdown()
    assert not row.absent
    assert row.more["asked"] == 6 and row.more["abstained"] == 0
    assert row.over_bare > 1  # a picture more than a word
