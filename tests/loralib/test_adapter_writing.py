"""An adapter folder is written whole: the same bytes each time, and no mixture of two saves is ever loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import loralib
from tests.loralib.models import net
from tests.loralib.test_adapter_folder import adapted, refuse_load, same_adapter, saved
from tests.shared_data import REPOSITORY


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = adapted(trainable="classifier", rank_pattern={"h.1.query": 1})
    first = contents(saved(tmp_path / "0", model))
    for i in range(1, 9):
        assert contents(saved(tmp_path / str(i), model)) == first


KILLED = """
import os, sys
import loralib
from tests.loralib.models import net
from tests.loralib.test_adapter_folder import adapted, saved

replace = os.replace
def killed(source, target):
    if os.path.basename(target) == sys.argv[2]:
        os._exit(9)
    replace(source, target)

os.replace = killed
saved(__import__("pathlib").Path(sys.argv[1]), adapted(**eval(sys.argv[3])))
"""


def kill_save(folder: Path, before: str, **arguments) -> None:
    """Saves another adapter in a process that is killed just before a file gets its name."""
    command = [sys.executable, "-c", KILLED, str(folder), before, repr(arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "new", [{"alpha_pattern": {"query": 16}}, {"rank_pattern": {"query": 3}}, {"use_rslora": True}]
)
def test_factors_and_config_of_two_saves_are_refused(tmp_path, new):
    kill_save(saved(tmp_path), "adapter_config.json", **new)
    refuse_load(net(), tmp_path, "the files are of two saves|expected floats of rank 2 as in adapter_config.json")
    assert same_adapter(loralib.load_adapter(net(), saved(tmp_path, adapted())), adapted())


@pytest.mark.slow
def test_a_killed_save_leaves_the_old_adapter_and_the_next_one_sweeps_up(tmp_path):
    before = contents(saved(tmp_path))
    kill_save(tmp_path, "adapter_model.safetensors", alpha_pattern={"query": 16})
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(re.fullmatch(r"\..*\.\d+\.partial", name) for name in after.keys() - before.keys())
    assert len(after) == 6
    running = tmp_path / f".adapter_config.json.{os.getppid()}.partial"
    running.touch()  # of a process that is at work
    assert contents(saved(tmp_path)).keys() == {*before, running.name}


def test_a_failed_write_leaves_the_old_adapter(tmp_path, monkeypatch):
    saved(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, adapted(rank_pattern={"wte": 1}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
