"""Random flags and values for every entry point, in process: each is taken, or refused in one line with exit code 2."""

from __future__ import annotations

import argparse
import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.common.errors import mistakes_in_one_line
from tests.shared_data import REPOSITORY

# Arguments of a process hold no NUL; bytes that are not UTF-8 come as such surrogates.
VALUES = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1",
        "2",
        "0.5",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "x",
        "a b",
        "é",
        "\udcff",
        "%s",
        "{}",
        "[",
    ),
    *("true", "no", "None", "null", "1,0,1", "1-2", "--", "-", "a=b", "a\nb", "[1]", '{"a": 1}', "gpt2.sm", "steps"),
)

HELP = ("-h", "--help", "--help-all", "--help_all")


@dataclass(frozen=True)
class EntryPoint:
    """``words``: with which it gets far, though its files do not exist; ``runs``: whether more than the parser runs."""

    module: str
    words: str = ""
    runs: bool = True
    parser: str = "build_parser"

    def make_parser(self) -> argparse.ArgumentParser:
        module = importlib.import_module(self.module)
        made: argparse.ArgumentParser = getattr(module, self.parser)()
        return made


ENTRY_POINTS = (
    EntryPoint("gpt2_ft", "--train_data a --valid_data b --work_dir out --model_card gpt2.sm --train_batch_size 2"),
    EntryPoint("gpt2_beam", "--data a --work_dir out --init_checkpoint b --model_card gpt2.sm"),
    EntryPoint("gpt2_encode", "--input a --output b --vocab c"),
    EntryPoint("gpt2_decode", "--vocab v --sample_file a --input_file b --output_ref_file r --output_pred_file p"),
    EntryPoint("results_table", "e2e a --output results"),
    EntryPoint("download", "", runs=False),
    EntryPoint("eval", "-R a -H b -nr 2 -m bleu"),
    EntryPoint("measure_scores", "a b"),
    EntryPoint("run_glue", "--model_name_or_path x --task_name cola --data_dir g --output_dir o --do_train"),
    EntryPoint("glue_table", ""),
    EntryPoint("recipes", "", runs=False),
    EntryPoint("convert", "a b"),
    EntryPoint("split_lora", "a b"),
    EntryPoint("toy_glue", "", runs=False),
    EntryPoint("download_glue_data", "", runs=False),
    EntryPoint("examples.common.compare", "a b"),
    EntryPoint("run_clm", "--model_name_or_path x --do_train --train_file a.jsonl --output_dir o"),
    EntryPoint("generate", "--model x --prompt a"),
    EntryPoint("score", "labels --predictions a.jsonl --references b.jsonl"),
    EntryPoint("judge", "--input a.jsonl --answers b --url http://127.0.0.1:9 --judge m --dry_run"),
    EntryPoint("sweep", "grid.tsv --runs r --do_train --train_file a.jsonl"),
    EntryPoint("loralib.__main__", "inspect a"),
    *(EntryPoint(f"scripts.bench.{name}", "", runs=False) for name in ("layers", "scoring")),
)


def words(point: EntryPoint, flags: Sequence[str], draw: random.Random) -> list[str]:
    """The entry point's words with one to three random changes: flags put in, words dropped, replaced or repeated."""
    found = point.words.split()
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(8)
        at = draw.randrange(len(found) + 1)
        if kind < 4 and flags:
            flag = draw.choice(flags)
            value = draw.choice(VALUES)
            found += [f"{flag}={value}"] if draw.random() < 0.3 else [flag, value] if draw.random() < 0.9 else [flag]
        elif kind == 4 and found:
            del found[at - 1]
        elif kind == 5 and found:
            found[at - 1] = draw.choice(VALUES)
        elif kind == 6:
            found.insert(at, draw.choice(VALUES))
        else:
            found.insert(at, f"--{draw.choice(['x', 'help_me', 'seed', 'lora', ''])}")
    return [word for word in found if word not in HELP]


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """All flags, those of commands within a command line too."""
    found: list[str] = []
    for action in parser._actions:
        found += [flag for flag in action.option_strings if flag not in HELP]
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += flags_of(command)
    return sorted(set(found))


def call(point: EntryPoint) -> Callable[[], Any]:
    """What runs it with the words in ``sys.argv``; the programs of the examples under ``run_main``'s rules."""
    module = importlib.import_module(point.module)
    main: Callable[[], Any] = module.main if point.runs else lambda: point.make_parser().parse_args()
    if point.module.startswith("loralib"):
        return main

    def program() -> None:
        with mistakes_in_one_line():
            main()

    return program


def make_files(folder: Path) -> None:
    """A few files for flags that read one, so that not all end at the first."""
    (folder / "a.jsonl").write_text('{"prompt": "a", "response": "b", "generated": "c", "label": "yes"}\n')
    (folder / "b.jsonl").write_text('{"prompt": "a", "response": "b", "label": "no"}\n')
    (folder / "grid.tsv").write_text("lora_r\tseed\n4\tx\n")


def sources() -> list[str]:
    """Folders that the names of the modules are looked up in."""
    inner = ("examples/NLG/src", "examples/NLG/eval/e2e", "examples/NLG/eval/GenerationEval", "examples/CLM")
    nlu = ("examples/NLU/examples/text-classification", "examples/NLU/utils", "scripts/bench")
    return [str(REPOSITORY / name) for name in ("", *inner, *nlu)]
