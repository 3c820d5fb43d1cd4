"""The Python of docs/adapters.md runs as printed, offline."""

from __future__ import annotations

import re

import pytest

import loralib
from tests.shared_data import REPOSITORY

PAGE = REPOSITORY / "docs" / "adapters.md"


@pytest.mark.slow
def test_the_example_runs_in_an_empty_folder(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    bank, tokens = names["bank"], names["tokens"]
    assert isinstance(bank, loralib.Adapters) and bank.names == ("support", "legal", "support, saved", "both")
    assert tuple(tokens.shape) == (4, 24)
    assert [path.name for path in tmp_path.iterdir()] == ["support_adapter"]
