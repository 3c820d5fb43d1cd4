"""A Python that starts at once: programs run in forks of a process that has imported the large packages before.

Half of the time of a test that runs a program as a user does goes into importing torch and transformers. ``PYTHON`` is
the path of a stand-in for ``sys.executable`` that spares it: it has the same arguments, environment, streams, working
folder, signals and exit code. Where these decide how an interpreter starts, it is the interpreter itself. None of the
project's own modules is imported before. Limits of the process (``ulimit``) and its memory are not those of a new one,
its hashes are those of ``PYTHONHASHSEED=0``, which ``run_task.sh`` asks for, and its process group is another.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PRELOADED = (
    *("torch", "torch.distributed.run", "torch.nn.parallel", "torch.utils.data", "numpy", "tokenizers", "tqdm"),
    *("safetensors.torch", "scipy.stats", "sklearn.metrics", "datasets", "accelerate"),
    *("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.roberta.modeling_roberta", "transformers.hf_argparser"),
)

CLIENT = r"""#!{python} -SEs
import json, os, signal, socket, sys, time
words, real = sys.argv[1:], {python!r}
unbuffered = words[:1] == ["-u"]
if unbuffered:
    words = words[1:]
special = ("PYTHONOPTIMIZE", "PYTHONUTF8", "LC_ALL", "LC_CTYPE", "PYTHONSTARTUP")
started_otherwise = any(name in os.environ for name in special) or os.environ.get("PYTHONHASHSEED", "0") != "0"
if not words or (words[0][:1] == "-" and words[0] not in ("-c", "-m")) or started_otherwise:
    os.execv(real, [real, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
for attempt in range(3000):
    try:
        server.connect({address!r})
        break
    except OSError:  # it is still importing
        time.sleep(0.02)
else:
    os.execv(real, [real, *sys.argv[1:]])
signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ignored = [int(s) for s in signals if signal.getsignal(s) == signal.SIG_IGN]
request = json.dumps(dict(words=words, python=sys.argv[0], unbuffered=unbuffered, folder=os.getcwd(),
                          environment=dict(os.environ), ignored=ignored, umask=os.umask(0o077))).encode() + b"\n"
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
socket.send_fds(server, [request[:1]], [0, 1, 2])
server.sendall(request[1:])
answers = server.makefile()
child = int(answers.readline())
for s in signals:
    if int(s) not in ignored:
        signal.signal(s, lambda number, frame: os.kill(child, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
for stream in (0, 1, 2):
    os.close(stream)
code = int(answers.readline() or -signal.SIGKILL)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def start() -> str:
    """Starts the server of this process and gives the path of its stand-in for ``sys.executable``."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
    client.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONPATH", None)
    server = subprocess.Popen(
        [sys.executable, __file__, address], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return str(client)


def serve(address: str) -> tuple[dict, list[int]]:
    """Answers requests until the process that started it is gone; returns in every child, with what that is to run."""
    owner = os.getppid()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what is imported stays in pages that all forks share
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    children: dict[int, tuple[int, socket.socket]] = {}  # descriptor of the process to its number and its client
    while os.getppid() == owner:
        watched = [listener, *children, *(client for _, client in children.values())]
        for ready in select.select(watched, [], [], 5)[0]:
            if ready is listener:
                client, _ = listener.accept()
                first, streams, _, _ = socket.recv_fds(client, 1, 3)
                request = json.loads(first + client.makefile("rb").readline())
                if (child := os.fork()) == 0:
                    return request, streams
                for stream in streams:
                    os.close(stream)
                children[os.pidfd_open(child)] = child, client
                client.sendall(f"{child}\n".encode())
            elif isinstance(ready, int):
                child, client = children.pop(ready)
                os.close(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(OSError), client:
                    client.sendall(f"{status}\n".encode())
            else:  # the client was killed
                for child, client in children.values():
                    if client is ready:
                        os.kill(child, signal.SIGKILL)
    os._exit(0)


def become(request: dict, streams: list[int]) -> None:
    """Turns a fork of the server into the program of a request, and runs it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.umask(request["umask"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else default)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    through = request["unbuffered"] or bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    for name, number, default in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        binary = open(number, "wb", closefd=False)  # noqa: SIM115
        line_wise = number == 2 or os.isatty(number)
        options = {"encoding": encoding, "errors": errors or default, "line_buffering": line_wise}
        setattr(sys, name, io.TextIOWrapper(binary, write_through=through, **options))
    offline = os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true")  # read when it was imported
    sys.modules["huggingface_hub"].constants.HF_HUB_OFFLINE = offline
    if "HF_DATASETS_CACHE" in os.environ:
        sys.modules["datasets"].config.HF_DATASETS_CACHE = Path(os.environ["HF_DATASETS_CACHE"])
    sys.executable = request["python"]  # programs that it starts are as quick
    words = request["words"]
    program = words[0]
    first = str(Path(program).resolve().parent) if program not in ("-c", "-m") else str(Path.cwd())
    extra = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [first, *extra, *sys.path[1:]]
    if program == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif program == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(program, run_name="__main__")


def finish(request: dict, streams: list[int]) -> None:
    """Runs a program and ends as an interpreter does, but leaves what was imported as it is, which takes seconds."""
    code: object = 0
    try:
        become(request, streams)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException as error:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # closed by the program, or by the reader
            stream.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    finish(*serve(sys.argv[1]))
else:
    PYTHON = start()
