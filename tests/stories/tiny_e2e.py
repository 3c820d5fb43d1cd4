"""Made-up data of E2E's form, and a tiny random Llama in the place of SmolLM2."""

from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path

from tests.clm.world import save_base, tiny_tokenizer

NAMES = ("The Mill", "The Eagle", "Cotto", "Aromi", "Zizzi", "Clowns", "Cocum", "Strada")
FOODS = ("English", "French", "Indian", "Italian", "Chinese", "Japanese", "Fast food")
AREAS, TYPES = ("riverside", "city centre"), ("pub", "restaurant", "coffee shop")


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("mr", "ref"), *rows])


def write_tiny_e2e(folder: Path) -> None:
    """``data/e2e`` with the official names, 6 test inputs of 4 slots and 2 references each; ``models/smollm2``."""
    data = folder / "data" / "e2e"
    data.mkdir(parents=True)
    rows = [
        (f"name[{name}], eatType[{kind}], food[{food}], area[{area}]", f"{name} is a {kind} with {food} food, {area}.")
        for name, food, area, kind in itertools.product(NAMES, FOODS, AREAS, TYPES)
    ]
    write_rows(data / "trainset.csv.gz", rows[:300])
    write_rows(data / "devset.csv.gz", rows[300:310])
    write_rows(data / "testset_w_refs.csv.gz", [(mr, text) for mr, text in rows[310:316] for _ in range(2)])
    (data / "testset.csv").write_text("MR\n" + "".join(f'"{mr}"\n' for mr, _ in rows[310:316]))
    base = folder / "models" / "smollm2"
    save_base(base, "llama", max_position_embeddings=512)
    tiny_tokenizer(model_max_length=512).save_pretrained(base)
