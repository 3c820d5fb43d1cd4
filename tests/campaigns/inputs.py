"""Gives seeded damaged input to every reader and every command line, and counts how each of them ends.

    PYTHONPATH=. python -m tests.campaigns.inputs --seed 0

An input is read or refused in one line; a traceback, more than 20 seconds, and a file that is lost or replaced after an
error are faults. Five generators: files of the GPT-2 example, of GLUE, adapter folders, examples/CLM, command lines.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns import command_lines

sys.path[1:1] = command_lines.sources()
os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

from examples.common.errors import UserError  # noqa: E402
from tests.campaigns import clm_inputs  # noqa: E402
from tests.nlg.data import fuzz_readers  # noqa: E402
from tests.nlu import fuzz as fuzz_glue  # noqa: E402

LIMIT_S = 20


class Late(BaseException):
    """Raised when an input has taken too long."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(call: Callable[[], object]) -> tuple[str, str]:
    """``taken``, ``refused`` or a fault, and what it said."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    try:
        with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call()
        return ("refused" if code == 2 else "taken"), ""
    except (UserError, OSError) as error:
        return ("refused", "") if str(error).strip() else ("traceback", "an empty message")
    except SystemExit as end:
        err.seek(0)
        said = err.read()
        one_line = isinstance(end.code, str) or "error" in said
        return (
            ("refused", "") if end.code in (2, 3) and one_line else ("traceback", f"exit {end.code!r}: {said[-200:]}")
        )
    except Late:
        return "hang", traceback.format_exc()[-600:]
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
        return "traceback", f"{type(error).__name__} {str(error)[:120]!r} at {places}"


def digests(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def readers_of_clm(count: int, seed: int) -> Counter[str]:
    counts = Counter[str]()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        reader = draw.choice(clm_inputs.READERS)
        with tempfile.TemporaryDirectory() as folder:
            case = fuzz_glue.Case(draw, Path(folder))
            kind, said = outcome(functools.partial(reader, case))
        counts[kind] += 1
        report("clm", number, f"{reader.__name__}", kind, said)
    return counts


def lines(count: int, seed: int) -> Counter[str]:
    counts = Counter[str]()
    flags = {point: command_lines.flags_of(point.make_parser()) for point in command_lines.ENTRY_POINTS}
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        point = command_lines.ENTRY_POINTS[number % len(command_lines.ENTRY_POINTS)]
        with tempfile.TemporaryDirectory() as name, fuzz_readers.working_in(name):
            command_lines.make_files(Path())
            before = digests(Path())
            sys.argv = [point.module, *command_lines.words(point, flags[point], draw)]
            kind, said = outcome(command_lines.call(point))
            if kind == "refused" and before.items() - digests(Path()).items():
                kind, said = "changed", "an input is lost or replaced"
        counts[kind] += 1
        report("command line", number, " ".join(map(repr, sys.argv)), kind, said)
    return counts


def files_of_nlg(count: int, seed: int) -> Counter[str]:
    outcomes, faults = fuzz_readers.fuzz(count, seed)
    print(*faults, sep="\n", end="\n" if faults else "", flush=True)
    return Counter({"taken" if kind == "ok" else kind: n for kind, n in outcomes.items()})


def files_of_glue(count: int, seed: int) -> Counter[str]:
    wrong = fuzz_glue.fuzz(count, seed)
    print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
    return Counter({"taken or refused": count - len(wrong), **({"faults": len(wrong)} if wrong else {})})


def adapter_folders(count: int, seed: int) -> Counter[str]:
    """Mutations as ``tests/loralib/test_damaged_adapters.py`` has them; refused as ``ValueError`` of one line."""
    import loralib
    from tests.loralib import test_damaged_adapters as adapters

    counts = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        valid, folder = adapters.small_adapter(Path(name) / "valid"), Path(name) / "folder"
        model = adapters.small_with_lora()
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(valid, folder)
            victim = draw.choice(sorted(path for path in folder.iterdir() if path.is_file()))
            if draw.random() < 0.3:
                config = adapters.config_of(folder)
                wrong = {draw.choice(list(config)): draw.choice(adapters.VALUES) for _ in range(draw.randint(1, 3))}
                adapters.changed(folder, **wrong)
            else:
                victim.write_bytes(fuzz_readers.damaged(victim.read_bytes(), draw))
            before = digests(folder)

            def load() -> None:
                try:
                    loralib.load_adapter(model, folder)
                except (ValueError, FileNotFoundError) as error:
                    raise UserError(str(error) if len(str(error).splitlines()) == 1 else "") from None

            kind, said = outcome(load)
            if digests(folder) != before:
                kind, said = "changed", "the adapter is changed by being read"
            counts[kind] += 1
            report("adapter", number, victim.name, kind, said)
    return counts


def report(kind_of_input: str, number: int, about: str, kind: str, said: str) -> None:
    if kind not in ("taken", "refused"):
        print(f"{kind_of_input} {number}, {about:.300}: {kind}: {said}", flush=True)


GENERATORS: dict[str, tuple[Callable[[int, int], Counter[str]], int]] = {
    "nlg": (files_of_nlg, 6000),
    "glue": (files_of_glue, 5000),
    "adapters": (adapter_folders, 4000),
    "clm": (readers_of_clm, 4000),
    "lines": (lines, 4000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("generators", nargs="*", help=f"of {', '.join(GENERATORS)}; default: all")
    parser.add_argument("--count", type=int, help="inputs of each; default: 23,000 in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = False
    for name in args.generators or GENERATORS:
        generate, count = GENERATORS[name]
        began = time.monotonic()
        counts = generate(args.count or count, args.seed)
        failed |= bool(counts.keys() - {"taken", "refused", "taken or refused"})
        seconds = round(time.monotonic() - began)
        print(json.dumps({"inputs": name, "seed": args.seed, **counts, "seconds": seconds}), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
