"""A Java whose METEOR has read its tables already, for tests that score texts but are not about Java.

METEOR takes 5 to 10 seconds of a core before its first answer. ``java_home()`` is a JAVA_HOME whose ``java`` passes the
questions of METEOR's command line to one that this process started with the same words, and is the real one for every
other program. METEOR keeps nothing from one question to the next.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path

from metrics.java import bundled_jar, find_java
from metrics.meteor import METEOR_JAR, Meteor

LONGEST_S = 10**5  # of all tests together

CLIENT = r"""#!{python} -SEs
import os, socket, sys, threading
if sys.argv[-7:] != [{jar!r}, *"- - -stdio -l en -norm".split()]:
    os.execv({java!r}, [{java!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})

def ask():
    for line in sys.stdin.buffer:
        server.sendall(line)
    server.shutdown(socket.SHUT_WR)

threading.Thread(target=ask, daemon=True).start()
for line in server.makefile("rb"):
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
os._exit(0)
"""


@functools.cache
def java_home() -> str:
    """Folder of the stand-in, for the variable JAVA_HOME. Started once for a process.

    Raises:
        JavaError: there is no Java.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm-java-"))
    program = folder / "bin" / "java"
    program.parent.mkdir()
    address = str(folder / "socket")
    words = {"python": sys.executable, "java": find_java(), "jar": str(bundled_jar(METEOR_JAR)), "address": address}
    program.write_text(CLIENT.format(**words), encoding="utf-8")
    program.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(8)
    threading.Thread(target=serve, args=(listener, Meteor(timeout_s=LONGEST_S)), daemon=True).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def serve(listener: socket.socket, meteor: Meteor) -> None:
    """Answers one client after the other, line by line, so that one that is killed leaves no answer for the next."""
    while True:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            for line in client.makefile("r", encoding="utf-8", newline="\n"):
                question = line.rstrip("\n")
                n_answers = question.count(" ||| ") + 1 if question.startswith("EVAL") else 1
                answers = meteor.ask([question], n_answers=n_answers)
                client.sendall("".join(f"{answer}\n" for answer in answers).encode())
