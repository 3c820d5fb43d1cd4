"""Downloads the official GLUE files into the folders that ``run_glue.py --data_dir`` reads, and counts their rows."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ends import fail

GLUE = "https://dl.fbaipublicfiles.com/glue/data"
PARAPHRASES = "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_{split}.txt"
ARCHIVES = {
    "CoLA": f"{GLUE}/CoLA.zip",
    "SST-2": f"{GLUE}/SST-2.zip",
    "QQP": f"{GLUE}/QQP-clean.zip",
    "STS-B": f"{GLUE}/STS-B.zip",
    "MNLI": f"{GLUE}/MNLI.zip",
    "QNLI": f"{GLUE}/QNLIv2.zip",
    "RTE": f"{GLUE}/RTE.zip",
    "WNLI": f"{GLUE}/WNLI.zip",
}
TASKS = (*ARCHIVES, "MRPC")
# Examples of each file. QQP's are those with all fields; its lines cut short are not counted.
ROWS = {
    "CoLA": {"train": 8551, "dev": 1043, "test": 1063},
    "SST-2": {"train": 67349, "dev": 872, "test": 1821},
    "MRPC": {"train": 3668, "dev": 408, "test": 1725},
    "QQP": {"train": 363846, "dev": 40430, "test": 390965},
    "STS-B": {"train": 5749, "dev": 1500, "test": 1379},
    "MNLI": {
        "train": 392702,
        "dev_matched": 9815,
        "dev_mismatched": 9832,
        "test_matched": 9796,
        "test_mismatched": 9847,
    },
    "QNLI": {"train": 104743, "dev": 5463, "test": 5463},
    "RTE": {"train": 2490, "dev": 277, "test": 3000},
    "WNLI": {"train": 635, "dev": 71, "test": 146},
}
HEADERLESS = {("CoLA", "train"), ("CoLA", "dev")}

Fetch = Callable[[str, Path], None]


def fetch(url: str, target: Path) -> None:
    """Downloads one file; ends the program where the server does not give it."""
    try:
        with urllib.request.urlopen(url, timeout=60) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (urllib.error.URLError, TimeoutError) as error:
        fail(f"{url} could not be downloaded ({error})")


def get_archive(task: str, folder: Path, fetch: Fetch) -> None:
    """Unpacks a task's archive: only its TSV files, directly into ``folder``."""
    archive = folder / "archive.zip"
    fetch(ARCHIVES[task], archive)
    wanted = {f"{split}.tsv" for split in ROWS[task]}
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                name = Path(member.filename).name
                if (
                    name in wanted
                    and "original" not in Path(member.filename).parts
                    and "__MACOSX" not in member.filename
                ):
                    with content.open(member) as source, (folder / name).open("wb") as sink:
                        shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile:
        fail(f"{ARCHIVES[task]} did not give a zip archive")
    archive.unlink()


def get_mrpc(folder: Path, fetch: Fetch) -> None:
    """Builds MRPC as GLUE did: the corpus' training part is divided by a list of pairs that are dev."""
    raw = {split: folder / f"msr_{split}.txt" for split in ("train", "test")}
    for split, path in raw.items():
        fetch(PARAPHRASES.format(split=split), path)
    fetch(f"{GLUE}/mrpc_dev_ids.tsv", folder / "dev_ids.tsv")
    dev = {tuple(line.split("\t")) for line in _lines(folder / "dev_ids.tsv")}
    header, *rows = _lines(raw["train"])
    parts: dict[str, list[str]] = {"train": [header], "dev": [header]}
    for row in rows:
        fields = row.split("\t")
        parts["dev" if (fields[1], fields[2]) in dev else "train"].append(row)
    test_header, *tests = _lines(raw["test"])
    numbered = ["\t".join([str(index), *row.split("\t")[1:]]) for index, row in enumerate(tests)]
    parts["test"] = ["\t".join(["index", *test_header.split("\t")[1:]]), *numbered]
    for split, lines in parts.items():
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in (*raw.values(), folder / "dev_ids.tsv"):
        path.unlink()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").rstrip("\n").replace("\r\n", "\n").split("\n")


def count_rows(task: str, split: str, path: Path) -> int:
    """Examples in an official file; for QQP those with all fields."""
    lines = _lines(path)
    if (task, split) in HEADERLESS:
        return len(lines)
    width = len(lines[0].split("\t"))
    return sum(1 for line in lines[1:] if task != "QQP" or len(line.split("\t")) >= width)


def get_task(task: str, data_dir: Path, fetch: Fetch = fetch) -> None:
    """Puts a task's folder in place, complete or not at all; warns where a row count is not the official one."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=f".{task}.") as name:
        folder = Path(name) / task
        folder.mkdir()
        if task == "MRPC":
            get_mrpc(folder, fetch)
        else:
            get_archive(task, folder, fetch)
        for split, expected in ROWS[task].items():
            path = folder / f"{split}.tsv"
            if not path.is_file():
                fail(f"{task}: the download holds no {split}.tsv")
            if (found := count_rows(task, split, path)) != expected:
                print(f"warning: {task}: {split}.tsv holds {found:,} examples, not {expected:,}", file=sys.stderr)
        os.replace(folder, data_dir / task)


def build_parser() -> argparse.ArgumentParser:
    """Where to and which tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("glue_data"), help="(default: glue_data)")
    parser.add_argument("--tasks", nargs="+", default=["all"], help=f"all, or some of {', '.join(TASKS)}")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Gets the wanted tasks that are not there yet."""
    args = build_parser().parse_args(argv)
    names = {task.lower(): task for task in TASKS} | {task.lower().replace("-", ""): task for task in TASKS}
    wanted = list(TASKS) if args.tasks == ["all"] else args.tasks
    for name in wanted:
        if name.lower() not in names:
            fail(f"--tasks {name}: choose from all, {', '.join(TASKS)}")
    for name in wanted:
        task = names[name.lower()]
        if (args.data_dir / task).exists():
            print(f"{task}: already there")
            continue
        get_task(task, args.data_dir)
        print(f"{task}: {', '.join(f'{split} {rows:,}' for split, rows in ROWS[task].items())}")


if __name__ == "__main__":
    main()
