"""Damages valid files at random and gives them to every reader of raw data, token ids, predictions and texts to score.

Whatever comes, a program ends well or with one line: no traceback, no hang, no input changed, and after an error the
old output stands untouched. Run with the folders of the repository and of the programs on PYTHONPATH:

    python tests/nlg/data/fuzz_readers.py --count 5000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import format_converting_dart
import format_converting_e2e
import format_converting_webnlg
import gpt2_decode
import gpt2_encode
from generation.predictions import PartialPredictions
from metrics import e2e_files, generation_files
from metrics.e2e import score_e2e
from metrics.generation import score_generation
from train.distributed import Process

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA, make_toy_vocabulary
from tests.nlg.data.xml_twins import benchmark, dart_entries, webnlg_entries

LIMIT_S = 20
OLD = "what an earlier run wrote\n"

NASTY = [
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\x85", "\u2028".encode(), b"\x0b\x1c"),
    *(b"[" * 50_000, b'{"a":' * 20_000, b" " * 120_000, b"9" * 5_000, b"a b " * 1_000, b'"' * 1001, b"<" * 500),
    *(
        b"null",
        b"true",
        b"NaN",
        b"-1",
        b"1e999",
        b"1.5",
        b'"x"',
        b"{}",
        b"[]",
        rb'"\ud800"',
        rb"\ud800",
        b"||",
        b"<!DOCTYPE x>",
    ),
    *(b"&amp;", b"&#0;", b"&x;", b'"', b"'", b",", b"\t", b"[", b"]", b"{", b"}", b":", b"|", b"\\", b"%s", b"50256"),
]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to three random edits."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        n = len(content)
        i, j = sorted((draw.randint(0, n), draw.randint(0, n)))
        near = min(n, i + draw.randint(0, 12))
        lines = content.split(b"\n")
        kind = draw.randrange(9)
        if kind == 0:
            content = content[:i]
        elif kind == 1:
            content = content[:i] + content[near:]
        elif kind == 2:
            content = content[:i] + content[i:j] * 2 + content[j:]
        elif kind in (3, 4):
            content = content[:i] + draw.choice(NASTY) + content[near:]
        elif kind == 5:
            content = content[:i] + draw.randbytes(draw.randint(1, 20)) + content[near:]
        elif kind == 6:
            draw.shuffle(lines)
            content = b"\n".join(lines)
        elif kind == 7:
            del lines[draw.randrange(len(lines))]
            content = b"\n".join(lines)
        else:
            flipped = bytearray(content)
            for k in draw.sample(range(n), min(n, 3)):
                flipped[k] ^= 1 << draw.randrange(8)
            content = bytes(flipped)
    return content


def make_valid(folder: Path) -> None:
    """Files that every reader takes, a few rows each."""
    for name in ("e2e_edge.txt", "webnlg_synth.json", "dart_synth.json"):
        shutil.copy(DATA / name, folder / name)
    webnlg, dart = (
        json.loads((DATA / f"{name}_synth.json").read_text(encoding="utf-8")) for name in ("webnlg", "dart")
    )
    (folder / "webnlg.xml").write_text(benchmark(webnlg_entries(webnlg)), encoding="utf-8")
    (folder / "dart.xml").write_text(benchmark(dart_entries(dart)), encoding="utf-8")
    (folder / "e2e.csv").write_text(
        'mr,ref\n"name[A B], area[x]",the cat sat\nname[C],"a dog, café"\n', encoding="utf-8"
    )
    vocabulary = make_toy_vocabulary(folder / "toy")
    for name in ("vocab.json", "merges.txt"):
        (vocabulary / name).rename(folder / name)
    vocabulary.rmdir()
    rows = [("a : b", "the cat ."), ("a : b", "a cat ."), ("c : d", "dogs , 12 cats .")]
    texts = [{"context": context, "completion": text, "cate": n < 2} for n, (context, text) in enumerate(rows)]
    (folder / "formatted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    predictions = [{"id": n, "predict": [65 + n, 66, 300, 0]} for n in range(3)]
    (folder / "pred.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    record = {"files": {"data": {"path": "nowhere", "sha256": "0"}}, "rows": 3, "settings": {"eos_token_ids": [300]}}
    (folder / "pred.jsonl.run.json").write_text(json.dumps(record))
    (folder / "unique").write_text("0\n0\n1\n")
    (folder / "refs.txt").write_text("the cat sat .\na cat sat .\n\nthe dog ran .\n")
    (folder / "refs.csv").write_text('mr,ref\nx,the cat sat .\nx,"a cat, sat ."\ny,the dog ran .\n')
    (folder / "hyps.txt").write_text("the cat sat\ndogs run .\n")
    (folder / "hyps.tsv").write_text("mr\toutput\nx\tthe cat sat\ny\tdogs run .\n")
    (folder / "reference0").write_text("the cat sat .\nthe dog ran .\n")
    (folder / "reference1").write_text("a cat sat .\n\n")
    (folder / "groups").write_text("seen\nunseen\n")
    header = json.dumps({"settings_sha256": "key"})
    (folder / "p.partial").write_text(f'{header}\n{{"id": 0, "predict": [1, 2]}}\n{{"id": 1, "predict": [3]}}\n')


def decode(ref_type: str, *more: str) -> None:
    paths = ["--sample_file", "pred.jsonl", "--input_file", "formatted.jsonl", "--output_pred_file", "out"]
    gpt2_decode.main(["--vocab", ".", *paths, "--ref_type", ref_type, "--output_ref_file", "out2", *more])


def score_e2e_files(references: str, hypotheses: str, source: str | None = None) -> None:
    groups = e2e_files.read_references(references)
    score_e2e(
        groups, e2e_files.read_system_output(hypotheses, n_expected=len(groups), source_path=source), with_java=False
    )


def score_generation_files() -> None:
    texts = generation_files.read_texts("reference", "hyps.txt", n_references=2)
    groups = generation_files.read_groups("groups", n_items=len(texts.hypotheses))
    score_generation(texts.references, texts.hypotheses, metrics=["bleu", "ter", "chrf++"], groups=groups)


def read_partial() -> None:
    with PartialPredictions(Path("p"), "key", Process()) as partial:
        found = dict(partial.done)
    for id, tokens in found.items():
        assert type(id) is int and all(type(token) is int for token in tokens)


VOCABULARY = ("vocab.json", "merges.txt")
READERS: dict[str, tuple[tuple[str, ...], Callable[[], object]]] = {  # name: (files that it reads, what to call)
    "e2e text": (("e2e_edge.txt",), lambda: format_converting_e2e.main(["e2e_edge.txt", "out"])),
    "e2e csv": (("e2e.csv",), lambda: format_converting_e2e.main(["e2e.csv", "out"])),
    "webnlg json": (("webnlg_synth.json",), lambda: format_converting_webnlg.main(["webnlg_synth.json", "out"])),
    "webnlg xml": (("webnlg.xml",), lambda: format_converting_webnlg.main(["webnlg.xml", "out"])),
    "dart json": (("dart_synth.json",), lambda: format_converting_dart.main(["dart_synth.json", "out"])),
    "dart xml": (("dart.xml",), lambda: format_converting_dart.main(["dart.xml", "out"])),
    "encode": (
        ("formatted.jsonl", *VOCABULARY),
        lambda: gpt2_encode.main(
            ["--input", "formatted.jsonl", "--vocab", ".", "--output", "out", "--add_bos", "--add_eos"]
        ),
    ),
    "decode e2e": (("pred.jsonl", "pred.jsonl.run.json", "formatted.jsonl", *VOCABULARY), lambda: decode("e2e")),
    "decode webnlg": (
        ("pred.jsonl", "pred.jsonl.run.json", "formatted.jsonl", "unique"),
        lambda: decode("webnlg", "--ref_unique_file", "unique", "--filter", "seen", "--tokenize", "--lower"),
    ),
    "partial": (("p.partial",), read_partial),
    "score e2e text": (("refs.txt", "hyps.txt"), lambda: score_e2e_files("refs.txt", "hyps.txt")),
    "score e2e table": (("refs.csv", "hyps.tsv"), lambda: score_e2e_files("refs.csv", "hyps.tsv", "hyps.tsv")),
    "score generation": (("reference0", "reference1", "hyps.txt", "groups"), score_generation_files),
    "groups of rows": (("formatted.jsonl",), lambda: generation_files.read_groups("formatted.jsonl", n_items=2)),
}


@contextlib.contextmanager
def working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Hang(BaseException):
    """Raised by the alarm clock."""


def give(reader: str, valid: Path, draw: random.Random) -> tuple[str, str]:
    """One damaged input for a reader: (``ok``, ``refused``, ``traceback``, ``hang`` or ``changed``, what was said)."""
    names, call = READERS[reader]
    with tempfile.TemporaryDirectory() as name, working_in(name):
        folder = Path()
        for path in valid.iterdir():
            shutil.copy(path, folder / path.name)
        victims = draw.sample(names, draw.randint(1, min(2, len(names))))
        for victim in map(Path, victims):
            kind = draw.random()
            if kind > 0.03:
                victim.write_bytes(damaged(victim.read_bytes(), draw))
                continue
            victim.unlink()
            if kind < 0.01:
                victim.mkdir()
            elif kind < 0.02:
                os.mkfifo(victim)
        if reader != "decode webnlg":
            (folder / "out2").write_text(OLD)
        (folder / "out").write_text(OLD)
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        outcome, said = run(call)
        after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        written = {"out", "out2", "p.partial", ".p.lock"} if outcome == "ok" or reader == "partial" else {"out2"}
        if reader != "decode webnlg" and outcome != "ok":
            written -= {"out2"}
        if {n: c for n, c in after.items() if n not in written} != {
            n: c for n, c in before.items() if n not in written
        }:
            return "changed", f"{said}; files {sorted(before.items() ^ after.items())!r:.300}"
        return outcome, said


def run(call: Callable[[], object]) -> tuple[str, str]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        out = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")  # as run_main has it
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            call()
        return "ok", ""
    except (UserError, OSError) as error:
        return "refused", str(error)
    except Hang:
        return "hang", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(count: int, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Outcomes of ``count`` inputs, and a report of each that is neither ok nor refused."""
    outcomes: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as name:
        make_valid(Path(name))
        with working_in(name):
            score_generation_files()  # imports packages for seconds, which are not to count
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            reader = list(READERS)[number % len(READERS)]
            outcome, said = give(reader, Path(name), draw)
            outcomes[outcome] += 1
            if outcome not in ("ok", "refused"):
                faults.append(f"seed {seed}, input {number}, {reader}: {outcome}: {said}")
    return outcomes, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="inputs (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    started = time.monotonic()
    outcomes, faults = fuzz(args.count, args.seed)
    print(*faults, sep="\n")
    print(f"{args.count} inputs, seed {args.seed}, {time.monotonic() - started:.0f} s: {dict(outcomes)}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
