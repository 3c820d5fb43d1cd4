"""A server on loopback that misbehaves as a test asks, with plain files and files of a hub."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BLOB = hashlib.sha1(b"blob 10240\0" + CONTENT).hexdigest()
COMMIT = "c" * 40


@dataclass
class Server:
    """What the server has, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes sent in the next answers before the connection ends
    resets: int = 0  # next answers that end in a reset
    failures: list[int] = field(default_factory=list)  # status of the next answers
    changed: bytes | None = None  # content from the second answer on
    endless: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.state
        state.asked.append((self.command, self.path, self.headers.get("Range")))
        if self.command == "GET" and state.resets:
            state.resets -= 1
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self.connection.close()
        if self.command == "GET" and state.failures:
            return self.send_error(state.failures.pop(0))
        path = self.path.replace(COMMIT, "main")
        if path not in state.files:
            return self.send_error(404)
        content = state.files[path]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", state.etags.get(path, '"none"'))
        self.send_header("X-Repo-Commit", COMMIT)
        if not state.endless:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.close_connection = True
        if self.command == "HEAD":
            return
        while state.endless:
            self.wfile.write(content)
        self.wfile.write(content[start : start + state.cut_after.pop(0) if state.cut_after else None])
        if state.changed is not None:
            state.files[path] = state.changed

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    state = Server(files={"/file": CONTENT})
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"state": state})) as http:
        http.daemon_threads = True
        state.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        http.shutdown()
