"""What all programs of the data path promise: help at once, without torch, and nothing done at import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.nlg.data.programs import NLG, SRC, run

PROGRAMS = [f"format_converting_{kind}" for kind in ("e2e", "webnlg", "dart")]
PROGRAMS += ["gpt2_encode", "gpt2_decode", "download"]


WITH_HELP = [*(f"src/{name}.py" for name in [*PROGRAMS, "gpt2_beam"]), "eval/e2e/measure_scores.py"]
WITH_HELP += ["eval/GenerationEval/eval.py"]


@pytest.mark.slow
@pytest.mark.parametrize("program", WITH_HELP)
def test_help_names_the_program_in_100_columns_without_torch(program, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "COLUMNS": "300", "PYTHONPATH": path}
    command = [sys.executable, str(NLG / program), "--help"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: {program.split('/')[-1]}")
    if program != "src/download.py":
        assert max(map(len, result.stdout.splitlines())) <= 100


def test_the_help_of_the_data_script_is_its_own_text():
    result = run("create_datasets.sh", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Turns raw files") and "--vocab DIR" in result.stdout.splitlines()[-1]


METRICS = sorted(f"metrics.{path.stem}" for path in (SRC / "metrics").glob("[a-z]*.py"))


def test_metrics_import_no_model():
    modules = "{'torch', 'gpt2', 'train', 'generation', 'text', 'transformers'}"
    code = f"import sys, {', '.join(METRICS)}; print({modules} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "set()\n", "")


@pytest.mark.slow
def test_no_program_imports_torch_or_acts_at_import():
    code = f"import sys, {', '.join(PROGRAMS)}; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
