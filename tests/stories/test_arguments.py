"""Mistakes in the words of a story end in one line before anything runs; the steps' shell code by itself."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.shared_data import REPOSITORY
from tests.stories.stories import environment, run_script

REPRODUCE = str(REPOSITORY / "scripts" / "reproduce.sh")
MISTAKES = {
    "no data set": ([], "data set is missing: expected one of e2e webnlg dart"),
    "another data set": (["e3e"], "data set e3e: expected one of e2e webnlg dart"),
    "two data sets": (["e2e", "dart"], "unexpected word dart after e2e"),
    "an unknown option": (["e2e", "--sizes", "md"], "unknown option --sizes"),
    "a size": (["e2e", "--size", "xl"], "--size xl: expected one of sm md lg"),
    "a recipe": (["e2e", "--recipe", "mine"], "--recipe mine: expected one of scripts paper"),
    "a checkpoint": (["e2e", "--checkpoint", "first"], "--checkpoint first: expected one of last best both"),
    "no value": (["e2e", "--seeds"], "--seeds needs a value"),
    "no seed": (["e2e", "--seeds", " "], "--seeds is empty"),
    "a seed in words": (["e2e", "--seeds", "110 x"], "--seeds 110 x: expected whole numbers between blanks"),
    "a seed twice": (["e2e", "--seeds", "110 11 110"], "--seeds 110 11 110: 110 stands there twice"),
    "no raw files": (["e2e", "--data-dir", "none"], "none does not exist: --data-dir names the folder"),
    "no weights": (["e2e", "--data-dir", ".", "--base", "none"], "none does not exist: --base names the pretrained"),
    "no vocabulary": (
        ["e2e", "--data-dir", ".", "--base", REPRODUCE, "--vocab", "none"],
        "none/encoder.json does not exist: --vocab names its folder",
    ),
    "data for a toy": (["e2e", "--embedded", "--data-dir", "."], "--embedded makes its own data and base"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(tmp_path, words, message):
    result = run_script(["bash", REPRODUCE, "--work-dir", str(tmp_path / "work"), *words])
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    assert lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "work").exists()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = run_script(["bash", REPRODUCE, "dart", "--smallest", "--work-dir", str(tmp_path)])
    assert result.returncode == 2 and "holds other files" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_help_names_every_option():
    result = run_script(["bash", REPRODUCE, "--help"])
    source = (REPOSITORY / "scripts" / "reproduce.sh").read_text(encoding="utf-8")
    assert result.returncode == 0
    options = re.findall(r"^        (--[a-z-]+)\)", source, flags=re.MULTILINE)
    assert len(options) == 11
    assert all(f"{name} " in result.stdout or f"{name}:" in result.stdout for name in options)
    assert "set -euo" not in result.stdout


def steps(folder, script: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of shell with steps.sh, in ``folder``."""
    scripts = REPOSITORY / "scripts"
    head = f"set -euo pipefail\nsource {scripts}/lib.sh\nsource {scripts}/steps.sh\ncd {folder}\n"
    return subprocess.run(["bash", "-c", head + script], env=environment(), capture_output=True, encoding="utf-8")


COUNTED = 'make() { echo "$2" > "$1"; echo made >> "count.$1"; }\n'
CHAIN = COUNTED + 'step one "" a make a "$word"\nstep two one b make b fixed\n'


def counts(folder) -> tuple[int, ...]:
    return tuple(len((folder / f"count.{name}").read_text().splitlines()) for name in ("a", "b"))


def test_a_step_runs_once(tmp_path):
    for _ in range(2):
        assert steps(tmp_path, "word=x\n" + CHAIN).returncode == 0
    assert counts(tmp_path) == (1, 1)


def test_another_word_repeats_a_step_and_those_after_it(tmp_path):
    steps(tmp_path, "word=x\n" + CHAIN)
    assert steps(tmp_path, "word=y\n" + CHAIN).returncode == 0
    assert counts(tmp_path) == (2, 2)
    assert (tmp_path / "a").read_text() == "y\n"


def test_other_files_repeat_a_step(tmp_path):
    script = COUNTED + 'SINCE="$(digest input)" step one "" a make a x\nSINCE="" step two "" b make b x\n'
    for text, expected in [("1", (1, 1)), ("1", (1, 1)), ("2", (2, 1))]:
        (tmp_path / "input").write_text(text)
        assert steps(tmp_path, script).returncode == 0
        assert counts(tmp_path) == expected


def test_a_lost_output_is_made_again(tmp_path):
    steps(tmp_path, "word=x\n" + CHAIN)
    (tmp_path / "b").unlink()
    steps(tmp_path, "word=x\n" + CHAIN)
    assert counts(tmp_path) == (1, 2)


def test_a_step_with_a_lost_output_starts_from_nothing(tmp_path):
    script = 'work() { echo part >> a; touch b; }\nstep one "" "a b" work\n'
    for _ in range(2):
        assert steps(tmp_path, script).returncode == 0
        (tmp_path / "b").unlink()
    assert (tmp_path / "a").read_text() == "part\n"


FAILS = 'work() { echo part >> a; [ ! -e fails ] || return 7; }\nstep one "" a work "$word"\n'


def test_a_failed_step_keeps_its_code_and_finds_what_it_left(tmp_path):
    (tmp_path / "fails").touch()
    (tmp_path / "a").write_text("from another time\n")
    assert steps(tmp_path, "word=x\n" + FAILS).returncode == 7
    assert (tmp_path / "a").read_text() == "part\n"  # what lay there before the step began is gone
    (tmp_path / "fails").unlink()
    assert steps(tmp_path, "word=x\n" + FAILS).returncode == 0
    assert (tmp_path / "a").read_text() == "part\npart\n"


def test_a_failed_step_starts_from_nothing_with_other_words(tmp_path):
    (tmp_path / "fails").touch()
    script = FAILS
    assert steps(tmp_path, "word=x\n" + script).returncode == 7
    (tmp_path / "fails").unlink()
    assert steps(tmp_path, "word=y\n" + script).returncode == 0
    assert (tmp_path / "a").read_text() == "part\n"


def test_a_step_without_its_output_is_an_error(tmp_path):
    result = steps(tmp_path, 'step one "" "a b" touch a\n')
    assert result.returncode == 2 and result.stderr.splitlines()[-1] == "error: step one left no a b"
    assert not (tmp_path / "steps" / "one.done").exists()
