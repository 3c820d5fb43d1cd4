"""Asks an OpenAI-compatible endpoint, which may be slow, busy, broken or gone; the key is sent there alone."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from examples.common.errors import UserError

MOST_BYTES = 2**20  # of an answer
MOST_PATIENCE_S = 120.0  # whatever Retry-After says


class Trouble(Exception):
    """What another try may mend; ``wait`` is how long the server wants to be left alone, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a server points."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass
class Endpoint:
    """A chat model behind ``URL/chat/completions``.

    Attributes:
        url: up to and without ``/chat/completions``.
        key: sent as a bearer token; empty: none is sent. Never part of a message.
        timeout_s: most seconds of one try, from the first byte sent to the last one read.
        tries: of one question; between them ``backoff_s``, then twice as long each time.
        per_minute: most tries in a minute, evenly spaced; None: no limit.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 60.0
    tries: int = 5
    backoff_s: float = 1.0
    per_minute: float | None = None
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(default=0.0, repr=False)

    def ask(self, prompt: str, *, max_tokens: int, temperature: float, seed: int, fits: Callable[[str], bool]) -> str:
        """The model's answer to one message; the last one, where none of them ``fits``.

        Raises:
            UserError: the endpoint refuses, or every try failed otherwise.
        """
        content = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        answer, reason = None, ""
        for number in range(self.tries):
            try:
                answer = self._try(content)
                if fits(answer):
                    return answer
            except Trouble as trouble:
                reason = str(trouble)
                if number + 1 < self.tries:
                    self.sleep(max(self.backoff_s * 2**number, min(trouble.wait, MOST_PATIENCE_S)))
        if answer is None:
            raise UserError(f"{self.url}: no answer in {self.tries} tries, at last: {self._without_key(reason)}")
        return answer

    def _try(self, content: dict[str, Any]) -> str:
        self._wait_for_turn()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        try:
            request = urllib.request.Request(
                f"{self.url.rstrip('/')}/chat/completions", json.dumps(content).encode(), headers
            )
            deadline = time.monotonic() + self.timeout_s
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout_s) as response:
                text = _read(response, deadline)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(str(getattr(error, "reason", None) or error) or type(error).__name__) from None
        except ValueError as error:
            raise UserError(f"--url {self.url}: {error}") from None
        try:
            answer = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Trouble("the answer is not what the chat interface promises") from None
        if not isinstance(answer, str):
            raise Trouble("the answer has no text")
        return answer

    def _refused(self, error: urllib.error.HTTPError) -> None:
        with error:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            wait = error.headers.get("Retry-After", "")
            raise Trouble(f"HTTP {error.code} {said}", float(wait) if wait.isdigit() else 0.0)
        raise UserError(f"{self.url} refuses with HTTP {error.code}: {self._without_key(said) or error.reason}")

    def _wait_for_turn(self) -> None:
        now = time.monotonic()
        if self.per_minute is not None:
            if self._next > now:
                self.sleep(self._next - now)
            self._next = max(now, self._next) + 60 / self.per_minute

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text


def _read(response: Any, deadline: float) -> str:
    """The body; a server that sends a byte now and then does not hold us beyond the deadline."""
    body = b""
    while block := response.read1(65536):
        body += block
        if len(body) > MOST_BYTES:
            raise Trouble(f"the answer has more than {MOST_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise Trouble("the answer did not end in time")
    return body.decode("utf-8", "replace")
