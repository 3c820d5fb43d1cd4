"""A language model's endpoint on loopback that answers, or misbehaves, as a test asks."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret"


class Server:
    """Answers with the behaviours of ``script`` in turn, the last one for ever."""

    def __init__(self, *script: str) -> None:
        self.script, self.requests = list(script), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                outer.behave(self, outer.script.pop(0) if len(outer.script) > 1 else outer.script[0])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def behave(self, handler: BaseHTTPRequestHandler, what: str) -> None:
        if what == "hang up":
            return
        status, body, headers = 200, what, {}
        if what.startswith("HTTP "):
            status, body = int(what.split()[1]), f"wrong key {KEY}"
            headers = {"Retry-After": "7", "Location": "http://127.0.0.1:9/"}
        elif not what.startswith(("{", "<")):
            body = json.dumps({"choices": [{"message": {"content": what}}]})
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if what == "drip":
            for _ in range(100):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        handler.wfile.write(body.encode())

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.http.shutdown()
        self.http.server_close()
