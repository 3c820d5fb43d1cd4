"""Downloads the official GLUE files into the folders that ``run_glue.py --data_dir`` reads, and counts their rows."""

from __future__ import annotations

import argparse
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from examples.common import downloads
from examples.common.errors import UserError, run_main, warn
from examples.common.files import MOST_BYTES, atomic_folder, make_folder, read_text

GLUE = "https://dl.fbaipublicfiles.com/glue/data"
PARAPHRASES = "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_{split}.txt"
DEV_IDS = f"{GLUE}/mrpc_dev_ids.tsv"
ARCHIVES = {
    "CoLA": f"{GLUE}/CoLA.zip",
    "SST-2": f"{GLUE}/SST-2.zip",
    "QQP": f"{GLUE}/QQP.zip",
    "STS-B": f"{GLUE}/STS-B.zip",
    "MNLI": f"{GLUE}/MNLI.zip",
    "QNLI": f"{GLUE}/QNLIv2.zip",
    "RTE": f"{GLUE}/RTE.zip",
    "WNLI": f"{GLUE}/WNLI.zip",
}
# (bytes, sha256) as TensorFlow Datasets 4.9.10 records them (url_checksums/glue.txt); MRPC's list of dev pairs stands
# there under an older address.
PUBLISHED = {
    ARCHIVES["CoLA"]: (376971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
    ARCHIVES["SST-2"]: (7439277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    ARCHIVES["QQP"]: (41696084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
    ARCHIVES["STS-B"]: (802872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
    ARCHIVES["MNLI"]: (312783507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    ARCHIVES["QNLI"]: (10627589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
    ARCHIVES["RTE"]: (697150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
    ARCHIVES["WNLI"]: (28999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
    PARAPHRASES.format(split="train"): (1047044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
    PARAPHRASES.format(split="test"): (441275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
    DEV_IDS: (6222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
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
MOST_ZIP_RATIO = 50  # of unpacked to packed bytes in members of more than MOST_BYTES

Fetch = Callable[[str, Path], None]


def fetch(url: str, target: Path) -> None:
    """Downloads one file, which must be the published one."""
    size, sha256 = PUBLISHED[url]
    downloads.fetch(downloads.Download(url, target, sha256=sha256, most_bytes=size))


def get_archive(task: str, folder: Path, fetch: Fetch) -> None:
    """Unpacks a task's archive: only its TSV files, directly into ``folder``.

    Raises:
        UserError: no zip archive, or one that holds a file twice, outside its folder, or far larger than text packs.
    """
    archive = folder / "archive.zip"
    fetch(ARCHIVES[task], archive)
    wanted = {f"{split}.tsv" for split in ROWS[task]}
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                parts = PurePosixPath(member.filename).parts
                if ".." in parts or parts[:1] == ("/",):
                    raise UserError(f"{ARCHIVES[task]}: {member.filename!r} would be written outside its folder")
                name = parts[-1] if parts else ""
                if name not in wanted or {"original", "__MACOSX"} & {*parts}:
                    continue
                if member.file_size > max(MOST_BYTES, MOST_ZIP_RATIO * member.compress_size):
                    raise UserError(f"{ARCHIVES[task]}: {name} would have {member.file_size:,} bytes; it is no text")
                with content.open(member) as source, (folder / name).open("xb") as sink:
                    shutil.copyfileobj(source, sink)
    except FileExistsError:
        raise UserError(f"{ARCHIVES[task]} holds {name} twice") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{ARCHIVES[task]} did not give a zip archive that can be read ({error})") from None
    archive.unlink()


def get_mrpc(folder: Path, fetch: Fetch) -> None:
    """Builds MRPC as GLUE did: the corpus' training part is divided by a list of pairs that are dev."""
    raw = {split: folder / f"msr_{split}.txt" for split in ("train", "test")}
    for split, path in raw.items():
        fetch(PARAPHRASES.format(split=split), path)
    fetch(DEV_IDS, folder / "dev_ids.tsv")
    dev = {tuple(line.split("\t")) for line in _lines(folder / "dev_ids.tsv")}
    header, *rows = _lines(raw["train"])
    parts: dict[str, list[str]] = {"train": [header], "dev": [header]}
    for row in rows:
        parts["dev" if tuple(row.split("\t")[1:3]) in dev else "train"].append(row)
    test_header, *tests = _lines(raw["test"])
    numbered = ["\t".join([str(index), *row.split("\t")[1:]]) for index, row in enumerate(tests)]
    parts["test"] = ["\t".join(["index", *test_header.split("\t")[1:]]), *numbered]
    for split, lines in parts.items():
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in (*raw.values(), folder / "dev_ids.tsv"):
        path.unlink()


def _lines(path: Path) -> list[str]:
    return read_text(path).rstrip("\n").replace("\r\n", "\n").split("\n")


def count_rows(task: str, split: str, path: Path) -> int:
    """Examples in an official file; for QQP those with all fields."""
    lines = _lines(path)
    if (task, split) in HEADERLESS:
        return len(lines)
    width = len(lines[0].split("\t"))
    return sum(1 for line in lines[1:] if task != "QQP" or len(line.split("\t")) >= width)


def get_task(task: str, data_dir: Path, fetch: Fetch = fetch) -> None:
    """Puts a task's folder in place, complete or not at all; warns where a row count is not the official one."""
    make_folder(data_dir)
    with atomic_folder(data_dir / task) as folder:
        if task == "MRPC":
            get_mrpc(folder, fetch)
        else:
            get_archive(task, folder, fetch)
        for split, expected in ROWS[task].items():
            path = folder / f"{split}.tsv"
            if not path.is_file():
                raise UserError(f"{task}: the download holds no {split}.tsv")
            if (found := count_rows(task, split, path)) != expected:
                warn(f"{task}: {split}.tsv holds {found:,} examples, not {expected:,}")


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
            raise UserError(f"--tasks {name}: choose from all, {', '.join(TASKS)}")
    for name in wanted:
        task = names[name.lower()]
        if (args.data_dir / task).exists():
            print(f"{task}: already there")
            continue
        get_task(task, args.data_dir)
        print(f"{task}: {', '.join(f'{split} {rows:,}' for split, rows in ROWS[task].items())}", flush=True)


if __name__ == "__main__":
    run_main(main)
