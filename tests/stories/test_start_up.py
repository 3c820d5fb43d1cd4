"""What starting a program imports: loralib nothing but torch, and ``--help`` nothing that it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gpt2_ft
import pytest
from gpt2.weights import read_checkpoint

from examples.common import files
from examples.common.files import sha256_of
from tests.nlg.train.helpers import tiny_flags, write_tiny_files
from tests.shared_data import REPOSITORY

HEAVY = {
    *("torch", "transformers", "peft", "datasets", "scipy", "sklearn", "pandas", "matplotlib", "numpy"),
    *("sacrebleu", "nltk", "pycocoevalcap", "safetensors", "loralib"),
}
PROGRAMS = [
    *(
        f"examples/NLG/src/{name}.py"
        for name in ("gpt2_ft", "gpt2_beam", "gpt2_encode", "gpt2_decode", "download", "results_table")
    ),
    *(f"examples/NLG/src/format_converting_{name}.py" for name in ("e2e", "webnlg", "dart")),
    "examples/NLG/eval/e2e/measure_scores.py",
    "examples/NLG/eval/GenerationEval/eval.py",
    "examples/NLU/examples/text-classification/run_glue.py",
    *(f"examples/NLU/utils/{name}.py" for name in ("split_lora", "convert", "recipes", "glue_table", "toy_glue")),
    "examples/NLU/utils/download_glue_data.py",
    *(f"examples/CLM/{name}.py" for name in ("run_clm", "generate", "score", "judge", "sweep")),
]
MISTAKEN = {
    "examples/NLG/src/gpt2_ft.py": ["--train_data", "x", "--valid_data", "y", "--lora_dim", "many"],
    "examples/NLU/examples/text-classification/run_glue.py": ["--model_name_or_path", "x", "--learning_rat3", "1"],
    "examples/CLM/run_clm.py": ["--learning_rat", "1"],
    "examples/CLM/generate.py": ["--top_p", "most"],
    "examples/CLM/score.py": ["perplexity"],
    "examples/CLM/judge.py": ["--input"],
    "examples/CLM/sweep.py": ["grid.tsv", "--runs", "x", "--seed", "none"],
}
# no docstrings, and an output that can show ASCII alone
BARE = {
    "PYTHONOPTIMIZE": "2",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
}
START = """
import contextlib, io, json, pathlib, runpy, sys
del sys.argv[0]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
with contextlib.redirect_stdout(io.StringIO()) as said:
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
print(json.dumps([said.getvalue(), code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def answer(code, *arguments):
    """What a new Python that runs ``code`` prints, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **BARE, "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.slow
def test_loralib_imports_nothing_that_torch_does_not():
    first, then = "import sys, json, torch; before = {*sys.modules}", "import loralib; added = {*sys.modules} - before"
    added = {name.split(".")[0] for name in answer(f"{first}; {then}; print(json.dumps([*added]))")}
    assert added - sys.stdlib_module_names <= {"loralib", "torch"}
    assert "loralib" in added


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_comes_without_heavy_packages(program):
    said, code, imported = answer(START, program, "--help")
    assert code == 0 and said.startswith("usage:") and "--help" in said
    assert not HEAVY & {*imported}


@pytest.mark.slow
@pytest.mark.parametrize(("program", "words"), MISTAKEN.items())
def test_a_mistaken_flag_is_told_without_heavy_packages(program, words):
    said, code, imported = answer(START, program, *words)
    assert (code, said) == (2, "")
    assert not HEAVY & {*imported}


def test_a_file_that_has_not_changed_is_read_for_its_digest_once(tmp_path, monkeypatch):
    path, read = tmp_path / "base.pt", []
    real = files.read_sha256
    monkeypatch.setattr(files, "read_sha256", lambda path: read.append(path) or real(path))
    path.write_bytes(b"weights")
    os.utime(path, (1e9, 1e9))
    assert sha256_of(path) == sha256_of(str(path)) == real(path)
    assert len(read) == 1
    path.write_bytes(b"changed")  # as long as before
    os.utime(path, (1e9 + 7, 1e9 + 7))
    assert sha256_of(path) == real(path)
    assert len(read) == 2


def test_a_file_that_has_just_been_written_is_read_every_time(tmp_path):
    path = tmp_path / "base.pt"
    for content in (b"one", b"two", b"six"):  # within one tick of the clock of the file system
        path.write_bytes(content)
        stamp = path.stat().st_mtime_ns
        first = sha256_of(path)
        path.write_bytes(content[::-1])
        os.utime(path, ns=(stamp, stamp))
        assert sha256_of(path) != first


def test_training_reads_the_pretrained_file_for_its_digest_once(tmp_path, monkeypatch):
    """The record of the run and that of its checkpoints both name it."""
    write_tiny_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    os.utime("base.safetensors", (1e9, 1e9))
    read, real = [], files.read_sha256
    monkeypatch.setattr(files, "read_sha256", lambda path: read.append(str(path)) or real(path))
    gpt2_ft.main(tiny_flags(max_step=1, work_dir="w"))
    assert sum(path.endswith("base.safetensors") for path in read) == 1
    run = json.loads((tmp_path / "w" / "run.json").read_text(encoding="utf-8"))
    saved = read_checkpoint("w/model.1.pt")
    assert saved.record["base"]["sha256"] == run["files"]["init_checkpoint"]["sha256"] == real("base.safetensors")
