"""The page on disagreements: its figures follow from tables and counts, and its flags are those of the programs."""

from __future__ import annotations

import math
import re

import gpt2_beam
import gpt2_decode
import gpt2_ft
from gpt2.config import MODEL_CARDS

from tests.shared_data import REPOSITORY
from tests.stories.test_hparams import ROWS

PAGE = (REPOSITORY / "docs" / "disagreements.md").read_text(encoding="utf-8")


def row(item: str) -> list[str]:
    """Cells of the one row that begins with ``item``."""
    found = [line for line in PAGE.splitlines() if line.startswith(f"| {item} |")]
    assert len(found) == 1, item
    return [cell.strip() for cell in found[0].replace("\\|", "/").strip("|").split("|")]


def test_every_row_has_all_its_cells():
    width = 0
    for line in PAGE.splitlines():
        if line.startswith("|---"):
            width = line.count("|")
        elif line.startswith("|") and width:
            assert line.replace("\\|", "").count("|") == width, line
        elif not line.startswith("|"):
            width = 0


def test_length_penalties_are_those_of_the_recipes():
    _, paper, _, here = row("E2E length penalty")
    assert float(ROWS["e2e", "paper"]["length_penalty"]) == float(paper.split()[0])
    assert here.startswith(ROWS["e2e", "scripts"]["length_penalty"])


def test_last_steps_follow_from_rows_epochs_and_batch():
    batch, epochs = (int(ROWS["e2e", "scripts"][name]) for name in ("train_batch_size", "max_epoch"))
    for item, rows in {"last step of E2E": [42061], "last step of WebNLG, DART": [18025, 62659]}.items():
        for n in rows:
            assert f"{n:,}" in row(item)[3]
            assert f"{epochs * math.ceil(n / batch):,}" in row(item)[3]


def test_parameters_are_counted():
    r = int(ROWS["e2e", "scripts"]["lora_dim"])
    counted = row("trainable parameters, r = 4")[3]
    for card in ("gpt2.md", "gpt2.lg"):
        config = MODEL_CARDS[card]
        assert f"{config.n_layer * 2 * 2 * config.n_embd * r:,}" in counted  # A and B of q and v in each block
    d = MODEL_CARDS["gpt2.md"]
    whole = d.n_layer * (12 * d.n_embd**2 + 13 * d.n_embd) + (d.vocab_size + d.n_positions + 2) * d.n_embd
    assert row("all parameters of GPT-2 Medium")[3] == f"{whole:,}"


def test_every_flag_of_the_page_exists():
    known = {
        word
        for program in (gpt2_ft, gpt2_beam, gpt2_decode)
        for action in program.build_parser()._actions
        for word in action.option_strings
    }
    for path in ("scripts/reproduce.sh", "examples/NLG/eval/GenerationEval/eval.py"):
        known |= set(re.findall(r"--[a-z_-]+", (REPOSITORY / path).read_text(encoding="utf-8")))
    named = set(re.findall(r"--[a-z][a-z_-]+", PAGE))
    assert named and named <= known
