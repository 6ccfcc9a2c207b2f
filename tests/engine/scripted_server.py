"""A server for error paths only: answers requests as a test wants it to, and remembers them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """A status with a JSON body, or any text."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


Script = Callable[[str, Any], Answer]
"""(path, JSON body) -> answer."""


class ScriptedServer:
    """Attributes: address; requests: (path, JSON body, headers) in order of arrival; most_at_once: requests it had at the same time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[str, Any, dict[str, str]]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                with outer._lock:
                    outer.requests.append((self.path, body, dict(self.headers)))
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    answer = outer.script(self.path, body)
                    time.sleep(answer.delay_s)
                finally:
                    with outer._lock:
                        outer._now -= 1
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                try:
                    self.send_response(answer.status)
                    for name, value in (answer.headers | {"Content-Length": str(len(text.encode()))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client did not wait

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    """A server for the length of a test."""
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.close()
