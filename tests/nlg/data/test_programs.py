"""What all programs of the data path promise: help at once, without torch, and nothing done at import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.nlg.data.programs import SRC, run

PROGRAMS = [f"format_converting_{kind}" for kind in ("e2e", "webnlg", "dart")]
PROGRAMS += ["gpt2_encode", "gpt2_decode", "download"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_the_program_and_succeeds(program):
    result = run(f"{program}.py", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: {program}.py")


def test_no_program_imports_torch_or_acts_at_import():
    code = f"import sys, {', '.join(PROGRAMS)}; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
