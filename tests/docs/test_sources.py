"""What the sources hold once only, or no longer: helpers, changed settings, names, words, and their size."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY

PROGRAMS = sorted(path for folder in ("examples", "scripts", "loralib") for path in (REPOSITORY / folder).rglob("*.py"))
GPT2 = [path for path in PROGRAMS if "NLG" in path.parts]
PAGES = [
    REPOSITORY / "README.md",
    *(path for folder in ("docs", "examples") for path in (REPOSITORY / folder).rglob("*.md")),
]
HELPERS = ("UserError", "run_main", "atomic_write", "write_json", "sha256_of", "t_quantile")
NAMES = (
    *("len_past", "GrowingPast", "FixedPast", "Prompts", "is_report_accuracy", "infix_len", "prefix_len"),
    *("ages", "decided", "holes", "movers", "Attend", "Built"),
)
JARGON = r"\b(this|the (NLG|NLU|CLM)) room\b|written anew|fault mended|\b(told|whole) stor(y|ies)\b"


def trees(paths: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    assert len(paths) > 30
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def names(node: ast.AST) -> set[str]:
    """What a node calls by a name of its own."""
    return {str(getattr(node, field)) for field in ("id", "attr", "arg", "name") if hasattr(node, field)}


def test_a_program_of_gpt2_never_changes_its_parsed_flags():
    changed = [
        f"{path.name}:{node.lineno}"
        for path, node in trees(GPT2)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and "args" in names(node.value)
    ]
    assert changed == []


def test_a_helper_is_defined_once_for_all_examples():
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = [(node.name, path.parent.name) for path, node in trees(PROGRAMS) if isinstance(node, kinds)]
    assert sorted((name, folder) for name, folder in found if name in HELPERS) == sorted((n, "common") for n in HELPERS)


def test_tests_of_loralib_import_no_benchmark():
    imported = [
        getattr(node, "module", None) or names(node.names[0]).pop()
        for _, node in trees(sorted((REPOSITORY / "tests" / "loralib").glob("*.py")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert "loralib" in imported and [name for name in imported if name.startswith("scripts")] == []


def test_names_that_nobody_could_decode_or_used_are_gone_and_one_cache_is_left():
    found = Counter(name for _, node in trees(PROGRAMS) for name in names(node))
    assert found["args"] and [name for name in NAMES if found[name]] == []
    caches = [node.name for _, node in trees(GPT2) if isinstance(node, ast.ClassDef) and "Cache" in node.name]
    assert caches == ["BeamCache"]


def test_no_page_or_program_uses_words_of_the_project_alone():
    paths = [*PROGRAMS, *PAGES, *(REPOSITORY / "scripts").rglob("*.sh")]
    assert [str(path) for path in paths if re.search(JARGON, path.read_text(encoding="utf-8"))] == []


def test_the_changelog_says_where_training_and_decoding_differ_from_the_released_programs():
    text = " ".join((REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(r"- Three differences from the released programs.*?(?= - )", text)
    assert all(word in said for word in ("dropout", "--lora_dim", "--lora_alpha", "--save_interval"))


def test_the_front_page_says_of_each_table_of_the_paper_what_can_be_run():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| table | rows with a command | rows without |\n")
    rows = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()]
    spans = [span for row in rows for span in re.findall(r"(\d+)(?: to (\d+))?(?=[:,]| to|$)", row)]
    numbers = [n for first, last in spans for n in range(int(first), int(last or first) + 1)]
    assert sorted(numbers) == list(range(1, 19))


@pytest.mark.parametrize(
    ("files", "lines"), [("scripts/bench/**/*.py", 2500), ("scripts/quickstart/*.py", 2000), ("docs/benchmarks/*", 600)]
)
def test_benchmarks_and_generator_stay_small(files, lines):
    paths = [path for path in REPOSITORY.glob(files) if path.suffix in (".py", ".md", ".json")]
    assert 0 < sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths) <= lines


@pytest.mark.parametrize("folder", ["stories", "quickstart"])
def test_what_runs_a_script_to_its_end_has_an_hour(folder):
    runs = r"\b(tell|quickstart)\("
    files = [path for path in (REPOSITORY / "tests" / folder).glob("test_*.py") if re.search(runs, path.read_text())]
    assert files and [path.name for path in files if "mark.timeout(3600)" not in path.read_text()] == []
