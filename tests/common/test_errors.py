"""How programs end: one line, the right exit code, and of several processes one voice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.common import errors
from examples.common.errors import ProcessError, UserError, run_main, warn
from tests.shared_data import REPOSITORY


def ended(main, capsys, **options):
    """(exit code, what was said on stderr)."""
    with pytest.raises(SystemExit) as end:
        run_main(main, **options)
    return end.value.code or 0, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("first\n  second"), 2, "error: first second\n"),
        (OSError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\n"),
        (OSError("words alone"), 2, "error: words alone\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ProcessError("no GPU"), 2, "error: no GPU\n"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(error, code, said, capsys):
    assert ended(raising(error), capsys) == (code, said)


@pytest.mark.parametrize("word", ["--seed=--", "-R=--", "-R--"])
def test_two_dashes_as_a_value_are_refused(word, capsys, monkeypatch):
    """argparse of Python 3.11 drops them, and then finds no value."""
    monkeypatch.setattr(sys, "argv", ["program", "a", word])
    assert ended(lambda: None, capsys) == (2, f"error: {word}: -- cannot be the value of a flag\n")
    for words in (["--", word], ["--seed=---", "--x=-", "--", "-"]):
        monkeypatch.setattr(sys, "argv", ["program", *words])
        assert ended(lambda: None, capsys) == (0, "")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: print(1 // 0))


def test_of_several_processes_the_first_speaks_but_each_for_what_is_its_own(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)  # meanwhile torchrun ends it, if the first has failed
    assert ended(raising(UserError("a file is missing")), capsys) == (2, "error: a file is missing\n")
    assert waited == [errors.PATIENCE_S]
    assert ended(raising(ProcessError("process 1: no GPU")), capsys) == (2, "error: process 1: no GPU\n")
    assert ended(raising(OSError(5, "Input/output error", "x")), capsys) == (2, "error: x: Input/output error\n")
    assert len(waited) == 1
    warn("twice")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    warn("once\nand for all")
    assert capsys.readouterr().err == "warning: once and for all\n"


LOST = """
from examples.common.errors import LostProcessError, run_main
class Held:
    def __del__(self): print("tidied up", flush=True)  # DistributedDataParallel would wait here, for ever
def main():
    held = Held()
    print("printed before")
    raise LostProcessError("process 0: another process ended")
run_main(main)
"""


def test_a_program_that_lost_another_process_ends_without_freeing_what_it_built():
    result = subprocess.run([sys.executable, "-c", LOST], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr == "error: process 0: another process ended\n"
    assert result.stdout == "printed before\n"


def test_what_follows_a_success_follows_nothing_else(capsys):
    done = []
    assert ended(lambda: done.append("main"), capsys, at_end=lambda: done.append("end")) == (0, "")
    assert ended(raising(UserError("x")), capsys, at_end=lambda: done.append("never"))[0] == 2
    assert done == ["main", "end"]


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_names_that_an_output_cannot_show_are_escaped(encoding):
    code = (
        "from examples.common.errors import *\n"
        "def main(): print('caf\\xe9 \\u4e2d \\udcff'); raise UserError('\\u4e2d is missing')\n"
        "run_main(main)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": encoding, "PYTHONOPTIMIZE": "2"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert result.returncode == 2
    assert result.stdout.endswith(b" \\u4e2d \\udcff\n") and result.stderr == b"error: \\u4e2d is missing\n"


WORKER = """
import time
from examples.common.errors import run_main
run_main(lambda: (print("works", flush=True), time.sleep(30), print("outlived it", flush=True)))
"""
ADOPTED = "import os; os.getppid = lambda: 1" + WORKER
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_worker_of_torchrun_ends_with_a_killed_torchrun():
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, WORKER],
        env={**os.environ, "TORCHELASTIC_RUN_ID": "1"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert launcher.stdout is not None and launcher.stdout.readline() == "works\n"
    launcher.kill()
    assert launcher.stdout.read() == ""  # whose end is that of the worker
    launcher.wait()


@pytest.mark.skipif(
    sys.platform != "linux" or b"python" in Path("/proc/1/cmdline").read_bytes(), reason="asks who process 1 is"
)
def test_a_worker_whose_torchrun_is_dead_does_not_begin():
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "1"}
    worker = subprocess.run(
        [sys.executable, "-c", ADOPTED], env=environment, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert worker.returncode == 2 and worker.stdout == ""
    assert worker.stderr == "error: torchrun was killed before this worker had started\n"
