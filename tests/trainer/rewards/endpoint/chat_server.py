"""An OpenAI-compatible HTTP server on loopback whose answers are a function of the request."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Reply:
    data: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Chat:
    """`url`: its base; `asked`: what came; `most`: requests that were under way at once."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    under_way: int = 0
    most: int = 0


def said(
    text: str, *tokens: tuple[str, dict[str, float]], usage: tuple[int, int] = (100, 4)
) -> dict:
    """A `chat.completion`. `tokens`: each token with the probabilities that are listed at its place."""
    listed = [
        {
            "token": token,
            "logprob": math.log(shares[token]),
            "top_logprobs": [
                {"token": name, "logprob": math.log(share), "bytes": list(name.encode())}
                for name, share in shares.items()
            ],
        }
        for token, shares in tokens
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": {"content": listed, "refusal": None} if listed else None,
        "finish_reason": "stop",
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "tiny",
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        },
    }


@contextmanager
def chatting(answer: Callable[[Asked], Reply | dict | bytes]) -> Iterator[Chat]:
    chat, lock = Chat(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(body, {name.lower(): value for name, value in self.headers.items()})
            with lock:
                chat.asked.append(asked)
                chat.under_way += 1
                chat.most = max(chat.most, chat.under_way)
            found = answer(asked)
            with lock:
                chat.under_way -= 1
            reply = found if isinstance(found, Reply) else Reply(found)
            data = reply.data if isinstance(reply.data, bytes) else json.dumps(reply.data).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):  # an asker that gave up
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
