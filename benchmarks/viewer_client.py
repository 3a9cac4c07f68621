"""A viewer of the operator's page that is no browser: `python -m benchmarks.viewer_client <url>`.

Reads all that it gets, and says "looking" on stdout once the first picture of each camera is there.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from urllib.parse import urlencode, urlsplit


def main() -> None:
    where = urlsplit(sys.argv[1])
    host, port = where.hostname or "", where.port

    def connect() -> http.client.HTTPConnection:
        """With little room in the kernel: who stops reading is felt at the other end within a second."""
        connection = http.client.HTTPConnection(host, port)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return connection

    def pictures(cameras: list[str], seen: threading.Event) -> None:
        connection, numbers = connect(), dict.fromkeys(cameras, 0)
        while True:
            connection.request("GET", f"/pictures?{urlencode(numbers)}")
            answer = connection.getresponse()
            answer.read()
            for name, number, _ in json.loads(answer.headers.get("X-Pictures", "[]")):
                numbers[name] = number
            if all(numbers.values()):
                seen.set()

    connection = connect()
    connection.request("GET", "/events")
    answer = connection.getresponse()
    seen: threading.Event | None = None
    for line in answer:
        if line.startswith(b"data: ") and seen is None:
            seen = threading.Event()
            arguments = (list(json.loads(line[6:])["cameras"]), seen)
            threading.Thread(target=pictures, args=arguments, daemon=True).start()
            seen.wait(10.0)
            print("looking", flush=True)


if __name__ == "__main__":
    main()
