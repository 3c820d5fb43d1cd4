"""Writes small generated data under the names of the studies' data sets, and a GPT-2 of random weights.

    python scripts/studies/toy.py OUT --scale 1

OUT/raw: files for data.py. OUT/base: model and tokenizer as ``from_pretrained`` opens them; OUT/base.jsonl: texts to
train it on first.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.common.errors import run_main
from examples.common.files import atomic_write, make_folder
from scripts.quickstart.corpus import restaurant_rows

ROWS = {"train": 160, "dev": 40, "test-student": 20}  # times --scale
TONES = ("dreadful", "weak", "plain", "good", "splendid")
THINGS = ("film", "story", "cast", "song", "scene", "ending")
SUBJECTS = ("learn French", "cook rice", "find a job", "sleep well", "plant a tree", "read faster")
ASKING = ("How can I {}?", "What is the best way to {}?", "How do I {}, step by step?")
NOUNS = ("rose", "night", "summer", "heart", "eye", "time", "sea", "star")
VERBS = ("fades", "sings", "waits", "burns", "sleeps", "returns")
OFFERS = ("WIN a free phone, call 0900 now", "You won a prize! Text YES to 80080", "Free tickets, claim now at 0901")
NOTES = ("see you at six", "are you home yet", "thanks for the tea", "call me when you can", "running late, sorry")


def review(dice: random.Random, tone: str) -> str:
    return f"The {dice.choice(THINGS)} is {tone} and the {dice.choice(THINGS)} is {tone} ."


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in (header, *rows))


def sentiment_files(dice: random.Random, scale: float) -> dict[str, str]:
    files = {}
    for name, tones in (("sst", TONES), ("cfimdb", (TONES[0], TONES[-1]))):
        for part, count in ROWS.items():
            rows = []
            for index in range(round(count * scale)):
                label = index % len(tones)
                rows.append([index, f"{name}{part}{index}", review(dice, tones[label]), label])
            header = ["", "id", "sentence", "sentiment"]
            if part == "test-student":
                header, rows = header[:3], [row[:3] for row in rows]
            files[f"ids-{name}-{part}.csv"] = table(header, rows)
    return files


def quora_files(dice: random.Random, scale: float) -> dict[str, str]:
    files = {}
    for part in ("train", "dev"):
        rows = []
        for index in range(round(ROWS[part] * scale)):
            one, other = dice.sample(SUBJECTS, 2)
            pair = dice.sample(ASKING, 2)
            same = index % 2
            questions = [pair[0].format(one), pair[1].format(one if same else other)]
            rows.append([index, f"q{part}{index}", *questions, f"{same}.0"])
        files[f"quora-{part}.csv"] = table(["", "id", "sentence1", "sentence2", "is_duplicate"], rows)
    return files


def sonnet(dice: random.Random) -> list[str]:
    return [
        f"The {dice.choice(NOUNS)} {dice.choice(VERBS)} and the {dice.choice(NOUNS)} {dice.choice(VERBS)},"
        for _ in range(14)
    ]


def sonnet_files(dice: random.Random, scale: float) -> dict[str, str]:
    n_train, n_test = max(10, round(40 * scale)), max(3, round(6 * scale))
    poems = {number: sonnet(dice) for number in range(1, n_train + n_test + 1)}

    def text(numbers: range, lines: int) -> str:
        return "Sonnets\n\n" + "\n".join(f"{n}\n\n" + "\n".join(poems[n][:lines]) + "\n" for n in numbers)

    held_out = range(n_train + 1, n_train + n_test + 1)
    return {
        "sonnets.txt": text(range(1, n_train + 1), 14),
        "sonnets_held_out_dev.txt": text(held_out, 3),
        "TRUE_sonnets_held_out_dev.txt": text(held_out, 14),
    }


def instruction_files(dice: random.Random, scale: float) -> dict[str, str]:
    rows: list[dict[str, Any]] = []
    for _ in range(round(120 * scale)):
        tone, thing = dice.choice(TONES), dice.choice(THINGS)
        text = f"the {thing} is {tone}"
        rows.append({"instruction": "Convert the text to upper case.", "input": text, "output": text.upper()})
        rows.append(
            {"instruction": f"Write a sentence about a {thing}.", "input": "", "output": f"I saw a {tone} {thing}."}
        )
    messages = [(("spam", dice.choice(OFFERS)), ("ham", dice.choice(NOTES)))[i % 2] for i in range(round(200 * scale))]
    films = [{"text": review(dice, TONES[4 * (i % 2)]), "label": i % 2} for i in range(round(200 * scale))]
    sst2 = {
        f"SST-2/{part}.tsv": table(["sentence", "label"], [[str(row["text"]).lower(), row["label"]] for row in some])
        for part, some in (("train", films[len(films) // 4 :]), ("dev", films[: len(films) // 4]))
    }
    return {
        "alpaca_data.json": json.dumps(rows, indent=1),
        "SMSSpamCollection": "".join(f"{label}\t{text}\n" for label, text in messages),
        "imdb.jsonl": "".join(json.dumps(film) + "\n" for film in films),
        **sst2,
    }


def e2e_files(dice: random.Random, scale: float) -> dict[str, str]:
    """The first restaurants of the quickstart's corpus, in the form of the official CSV files."""
    official = {"Type": "eatType", "price": "priceRange", "family friendly": "familyFriendly"}
    files = {}
    names = {"train": "trainset", "valid": "devset", "test": "testset_w_refs"}
    for split, rows in restaurant_rows(dice.randrange(1000)).items():
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["mr", "ref"])
        for row in rows[: round(ROWS["train" if split == "train" else "dev"] * scale)]:
            slots = (f"{official.get(slot, slot)}[{value}]" for slot, value in row.facts.items())
            writer.writerow([", ".join(slots), row.text.text])
        files[f"{names[split]}.csv"] = stream.getvalue()
    return files


def save_base(folder: Path, texts: Sequence[str]) -> None:
    """Two blocks of width 64, and a byte-level vocabulary of the texts in which yes and no are one token each."""
    import torch
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()

    bpe = ByteLevelBPETokenizer()
    end = "<|endoftext|>"
    answers = ["yes", "no"] * len(texts)
    bpe.train_from_iterator([*texts, *answers], vocab_size=600, special_tokens=[end], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe._tokenizer.to_str()), eos_token=end, model_max_length=256
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write into")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many rows (default: 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    dice = random.Random(7)
    files: dict[str, str] = {}
    for make in (sentiment_files, quora_files, sonnet_files, instruction_files, e2e_files):
        files |= make(dice, args.scale)
    for name, text in files.items():
        path = args.out / "raw" / name
        make_folder(path.parent)
        with atomic_write(path) as stream:
            stream.write(text)
    lines = [line for text in files.values() for line in text.splitlines() if len(line) > 20]
    with atomic_write(args.out / "base.jsonl") as stream:
        stream.writelines(json.dumps({"text": line}) + "\n" for line in lines)
    save_base(args.out / "base", lines)


if __name__ == "__main__":
    run_main(main)
