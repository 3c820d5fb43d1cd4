"""Kills every program before each of its operations on files, starts it again, and compares the ends.

    PYTHONPATH=.:examples/NLG/src:... python -m tests.campaigns.kills gpt2_ft gpt2_beam run_glue ...

The end must be the same bit for bit (times in records excepted), with no unfinished file and no process left over.
Where a program opens a file it is also killed when that is open and empty. Linux only, as it looks into /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaigns.ends import differences, orphans, unfinished
from tests.campaigns.programs import PROGRAMS, Program
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

KILLED_AT = Path(__file__).with_name("killed_at.py")
LIMIT_S = 120


class Campaign:
    """One program, in a folder of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.program: Program = PROGRAMS[name]()
        self.name, self.folder = name, folder
        self.inputs, self.work, self.whole = folder / "inputs", folder / "work", folder / "whole"
        self.inputs.mkdir(parents=True)
        self.program.make(self.inputs)

    def start(self, launcher: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Starts the program in the work folder."""
        return subprocess.Popen(
            [PYTHON, *launcher, *self.program.words, *more],
            **{"cwd": self.work, "env": self.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """One thread, no network, nothing of another launcher, and a cache of token ids in the work folder."""
        paths = [REPOSITORY, REPOSITORY / "examples/NLG/src", os.environ.get("PYTHONPATH", "")]
        return {
            **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
            **{"OMP_NUM_THREADS": "1", "PYTHON_EXEC": PYTHON, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "HF_DATASETS_CACHE": str(self.work / "cache"),
        }

    def run(self, number: int = 0, kind: str = "before", more: tuple[str, ...] = ()) -> tuple[int, str]:
        """Runs it to its end or its kill: exit code and output."""
        program = self.start((str(KILLED_AT), str(number), kind, str(self.work), str(self.folder / "log")), more)
        return self.finish(program)

    def finish(self, program: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            out, _ = program.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            program.kill()
            return -1000, f"no end after {LIMIT_S} s"
        return program.returncode, out

    def fresh(self) -> None:
        """An empty work folder with links to the inputs."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for path in self.inputs.iterdir():
            (self.work / path.name).symlink_to(path)

    def uninterrupted(self) -> list[str]:
        """Makes the end to compare with, and returns the operations."""
        self.fresh()
        code, out = self.run()
        assert code == 0, out
        shutil.rmtree(self.whole, ignore_errors=True)
        shutil.copytree(self.work, self.whole, symlinks=True, ignore=shutil.ignore_patterns("cache"))
        return (self.folder / "log").read_text().splitlines()

    def faults(self, patience_s: float = 5) -> list[str]:
        """Starts it again after a kill, and says what is not as without one."""
        if alive := orphans(self.work, patience_s):
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            return [f"{len(alive)} processes outlive the kill"]
        code, out = self.finish(self.start(more=self.program.again))
        if code != 0 and "exists and is not an empty folder" in out:  # of loralib: it was complete already
            return differences(self.whole, self.work) + unfinished(self.work)
        if code != 0:
            return [f"started again: exit code {code}: {out[-400:]}"]
        shutil.rmtree(self.work / "cache", ignore_errors=True)
        return differences(self.whole, self.work) + unfinished(self.work)

    def trial(self, number: int, kind: str) -> list[str]:
        self.fresh()
        code, out = self.run(number, kind)
        if code != -signal.SIGKILL:
            return [f"not killed, exit code {code}: {out[-300:]}"]
        return self.faults()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("programs", nargs="*", choices=[*PROGRAMS, []], help="default: all")
    parser.add_argument("--first", type=int, default=1, help="operation to begin with")
    parser.add_argument("--every", type=int, default=1, help="only each n-th operation")
    args = parser.parse_args()
    failed = False
    for name in args.programs or PROGRAMS:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            campaign = Campaign(name, Path(folder) / name)
            operations = campaign.uninterrupted()
            began, trials, counts = time.monotonic(), 0, Counter[str]()
            for number in range(args.first, len(operations) + 1, args.every):
                what = operations[number - 1]
                for kind in ("before", "cut") if what.startswith("open ") else ("before",):
                    trials += 1
                    for fault in campaign.trial(number, kind):
                        counts[fault.partition(":")[0]] += 1
                        print(f"{name} {kind} {number} ({what}): {fault}", flush=True)
            result = {"program": name, "operations": len(operations), "trials": trials, "faults": dict(counts)}
            print(json.dumps({**result, "seconds": round(time.monotonic() - began)}), flush=True)
            failed |= bool(counts)
    sys.exit(failed)


if __name__ == "__main__":
    main()
