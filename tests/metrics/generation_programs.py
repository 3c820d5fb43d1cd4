"""What the tests of the WebNLG and DART scores share: running the program, recorded numbers, and their texts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.metrics.e2e_programs import EDGE, SETS
from tests.shared_data import REPOSITORY, shared_path
from tests.warm_python import PYTHON

EVAL = REPOSITORY / "examples" / "NLG" / "eval" / "GenerationEval" / "eval.py"
EDGE_SETS = ("generation_eval_blank", "generation_eval_lora")
WEBNLG = "webnlg_dev/human, LoRA padding"
WEBNLG_SETS = (WEBNLG, "webnlg_dev/human, blank padding", "webnlg_dev/human, raw text, blank padding")
RAW = WEBNLG_SETS[2]
RECORDED_NAMES = {"BLEU": "BLEU", "BLEU NLTK": "BLEU_NLTK", "METEOR": "METEOR", "TER": "TER", "chrF++": "chrF++"}


def recorded(name: str) -> dict[str, Any]:
    """Numbers of a set; ``segments`` has those of its first items."""
    if name in EDGE_SETS:
        return EDGE[name]
    path = SETS[name].get("segments")
    segments = json.loads(shared_path(f"golden/metrics/{path}").read_text(encoding="utf-8")) if path else {}
    return {**SETS[name], "segments": segments}


def recorded_scores(name: str, *, without: tuple[str, ...] = ()) -> dict[str, float]:
    """The recorded scores of a set by the names that eval.py prints."""
    scores = recorded(name)["scores"]
    return {ours: scores[theirs] for ours, theirs in RECORDED_NAMES.items() if ours not in without}


def texts_of(name: str) -> tuple[list[list[str]], list[str]]:
    """References (filled up as the set says) and hypotheses of a set."""
    if name in EDGE_SETS:
        pairs = [(item["refs"], item["hyp"]) for item in EDGE["items"]]
        blank, released_style = EDGE[name]["padding"] == "blank", name == "generation_eval_lora"
    else:
        lines = shared_path("golden/metrics/webnlg_dev/texts.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        pairs = [(row[:-1], row[-1]) for row in rows]
        blank, released_style = "blank" in SETS[name]["padding"], SETS[name]["post_process"] != "none"
    finish = tokenize_and_lower if released_style else str
    n_references = recorded(name)["nr"]
    references = []
    for texts, _ in pairs:
        padded = texts + ["" if blank else texts[0]] * n_references
        references.append([finish(text) for text in padded[:n_references]])
    return references, [finish(hypothesis) for _, hypothesis in pairs]


def tokenize_and_lower(text: str) -> str:
    """What ``gpt2_decode.py --tokenize --lower`` makes of a text, as the recorded numbers describe it."""
    return " ".join(" ".join(re.split(r"(\W)", text.lower())).split())


def write_texts(
    folder: Path, references: list[list[str]], hypotheses: list[str], *, end: str = "\n"
) -> tuple[Path, Path]:
    """Writes ``reference0``, ``reference1``, ... and ``hypothesis``; gives the prefix and the hypothesis file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, column in enumerate(zip(*references)):
        (folder / f"reference{number}").write_text("\n".join(column) + end, encoding="utf-8")
    (folder / "hypothesis").write_text("\n".join(hypotheses) + end, encoding="utf-8")
    return folder / "reference", folder / "hypothesis"


def run_eval(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does."""
    return subprocess.run(
        [PYTHON, str(EVAL), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        env={**os.environ, **(env or {})},
        check=False,
        **options,
    )
