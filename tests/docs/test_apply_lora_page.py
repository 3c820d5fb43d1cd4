"""The Python of docs/apply_lora.md runs as printed, offline, and does what the page says."""

from __future__ import annotations

import re

import pytest

import loralib
from tests.shared_data import REPOSITORY

PAGE = REPOSITORY / "docs" / "apply_lora.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=["gpt2", "roberta", "released file", "trainer"])
def test_an_example_runs_alone_in_an_empty_folder(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {})
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    checkpoints = [folder / "checkpoint-2" / "adapter", folder / "checkpoint-4" / "adapter"]
    for adapter in checkpoints if folder.name == "run" else [folder]:
        names = {path.name for path in adapter.iterdir()}
        assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    printed = capsys.readouterr().out
    summary = r"adapter [\d,]+ \+ bias 0 \+ head [\d,]+ = [\d,]+ trainable of"
    assert printed == "" or folder.name == "run" or re.search(summary, printed)


README_BLOCKS = re.findall(
    r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
)


@pytest.mark.slow
@pytest.mark.parametrize("block", README_BLOCKS, ids=["layers", "finished models"])
def test_an_example_of_the_readme_runs_alone(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert [path.name for path in tmp_path.iterdir()] in (["adapter.pt"], ["gpt2_adapter"])


def test_every_function_of_the_page_is_public():
    named = set(re.findall(r"loralib\.(\w+)", "".join(BLOCKS)))
    assert named and named <= set(loralib.__all__)
