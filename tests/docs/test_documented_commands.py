"""Every command in a README is one that its program accepts, and every file that a README names is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.common.compare import build_parser as compare_parser
from loralib.__main__ import build_parser as loralib_parser
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

PAGES = [
    *(REPOSITORY / "README.md", REPOSITORY / "examples/NLG/README.md", REPOSITORY / "examples/NLU/README.md"),
    REPOSITORY / "examples/CLM/README.md",
    *sorted((REPOSITORY / "docs").glob("**/*.md")),
]
LAUNCHERS = {"python", "torchrun", "-m", "torch.distributed.launch"}
LAUNCHER_FLAGS = ("--nproc", "--nnodes=", "--node_rank=", "--master_addr=", "--master_port=")
OTHER = [  # commands of other programs, which nothing here can check
    *(["git", "clone"], ["cd"], ["python3", "-m", "venv"], ["source", ".venv/bin/activate"], ["pip", "install"]),
    ["tensorboard", "--logdir"],
]


def commands(page: Path) -> list[list[str]]:
    """Words of each command in the page's ``bash`` blocks, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def folder_of(page: Path) -> Path:
    """Commands of a page run in its own folder; those of docs/ in the folder of the repository."""
    return REPOSITORY if REPOSITORY / "docs" in page.parents else page.parent


ALL = [
    pytest.param(page, words, id=f"{page.parent.name}-{' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize(("page", "words"), ALL)
def test_documented_command_is_accepted(page, words):
    if words[:3] == ["python", "-m", "loralib"]:
        loralib_parser().parse_args(words[3:])
        return
    if words[:3] == ["python", "-m", "examples.common.compare"]:
        compare_parser().parse_args(words[3:])
        return
    program = next((word for word in words if word.endswith((".py", ".sh"))), None)
    if program is None:
        assert any(words[: len(start)] == start for start in OTHER), f"a kind that this test cannot judge: {words}"
        return
    path = folder_of(page) / program
    assert path.is_file(), f"{program} does not exist"
    before, after = words[: words.index(program)], words[words.index(program) + 1 :]
    assert all(word in LAUNCHERS or word.startswith(LAUNCHER_FLAGS) or word == "bash" for word in before), before
    if program.endswith(".sh"):
        source = path.read_text(encoding="utf-8")
        if "--" in after and path.name.startswith("study_") and (path.stem != "study_swift" or "--study-form" in after):
            after, passed_on = after[: after.index("--")], after[after.index("--") + 1 :]
            load_program(REPOSITORY / "examples/CLM/run_clm.py").build_parser().parse_args(
                [*passed_on, "--output_dir", "x"]
            )
        assert all(flag in source for flag in after if flag.startswith("--"))
    else:
        load_program(path).build_parser().parse_args(after)


def test_no_page_has_a_value_that_was_never_filled_in():
    pages = [path for where in ("*.md", "docs/**/*.md", "examples/**/*.md") for path in REPOSITORY.glob(where)]
    assert len(pages) >= len(PAGES)
    assert {str(page): found for page in pages if (found := re.findall(r"@\w+@", page.read_text("utf-8")))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")
def test_relative_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_tree_of_folders_is_complete():
    """Each line of the tree names a folder that exists, and each folder with programs or pages stands in it."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = re.search(r"## Folders\n.*?```\n(.*?)```", text, flags=re.DOTALL)
    assert tree is not None
    named = [line.split()[0] for line in tree.group(1).splitlines()]
    assert [name for name in named if not (REPOSITORY / name).is_dir()] == []
    files = [path for room in ("loralib", "examples", "scripts", "docs") for path in REPOSITORY.glob(f"{room}/**/*.*")]
    folders = {str(path.parent.relative_to(REPOSITORY)) for path in files if path.suffix in (".py", ".sh", ".md")}
    assert sorted(folders - set(named)) == []


def test_the_readme_is_a_front_page():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def load_program(path: Path):
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as Python does for a program
        spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_released_installer_of_scorers_says_that_they_are_ready():
    result = subprocess.run(
        ["bash", REPOSITORY / "examples/NLG/eval/download_evalscript.sh"],
        env={**os.environ, "PYTHON": PYTHON},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "the scorers are ready" in result.stdout
