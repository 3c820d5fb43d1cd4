"""Kills runs at random moments, starts them again, and compares the end with that of no kill.

    python -m tests.campaigns.moments torchrun gpt2_ft --trials 30
    python -m tests.campaigns.moments torchrun run_glue --trials 10
    python -m tests.campaigns.moments script reproduce_dart --trials 2      (also: quickstart)

torchrun: two processes on gloo, of which the parent, one worker or all get SIGKILL in turn; nothing may outlive that by
more than some seconds. script: TERM to the script, or KILL to its process group, in turn; with ``--smallest``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaigns.ends import differences, orphans, processes, unfinished
from tests.campaigns.kills import Campaign
from tests.campaigns.programs import PROGRAMS
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

PATIENCE_S = 40  # torchrun gives workers 30 s to heed TERM
LONGER = {
    "gpt2_ft": ("--max_epoch", "30"),
    "run_glue": ("--num_train_epochs", "12", "--ddp_backend", "gloo"),
    "run_clm": ("--max_steps", "60", "--ddp_backend", "gloo"),
}


class Torchrun(Campaign):
    """A program in two processes. Those that are killed are started by Python itself, others by the faster stand-in."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.program = dataclasses.replace(self.program, words=(*self.program.words, *LONGER[name]))

    def start(self, launcher: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
        return super().start(torchrun, more)

    def start_cold(self) -> subprocess.Popen[bytes]:
        """Without the stand-in, whose processes have another parent."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**self.environment(), "PYTHON_EXEC": sys.executable}
        output = (self.folder / "killed.log").open("wb")
        return subprocess.Popen(
            [*command, *self.program.words], cwd=self.work, env=environment, stdout=output, stderr=output
        )

    def whole_run(self) -> float:
        """Makes the end to compare with. Returns the seconds that a run takes."""
        self.fresh()
        began = time.monotonic()
        assert self.start_cold().wait() == 0, (self.folder / "killed.log").read_text()
        seconds = time.monotonic() - began
        shutil.copytree(self.work, self.whole, symlinks=True, ignore=shutil.ignore_patterns("cache"))
        return seconds

    def moment(self, draw: random.Random, seconds: float, victim: str) -> tuple[str, list[str]]:
        """One trial: what was killed when, and the faults."""
        self.fresh()
        torchrun = self.start_cold()
        if draw.random() < 0.75:  # most of the time goes into the start
            while not any((self.work / "out").glob("*")) and torchrun.poll() is None:
                time.sleep(0.005)
            after = draw.uniform(0, seconds / 2)
        else:
            after = draw.uniform(0, seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            torchrun.wait(after)
        about = f"{victim}, {after:.2f} s, {len(list((self.work / 'out').glob('*')))} files"
        if torchrun.poll() is not None:
            return f"{about}: at its end already", self.faults()
        workers = [pid for pid in processes(self.work) if pid != torchrun.pid]
        victims = {"parent": [torchrun.pid], "worker": workers[-1:], "all": [torchrun.pid, *workers]}[victim]
        for pid in victims or [torchrun.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            torchrun.wait(PATIENCE_S)
        alive = orphans(self.work, PATIENCE_S)
        about += f": all ended in {time.monotonic() - began:.1f} s"
        if torchrun.poll() == 0:
            return about, [f"exit code 0 after the kill of {victim}"]
        assert not alive or victims, about
        return about, self.faults()


class Script:
    """A script of scripts/ with ``--smallest``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.work, self.whole, self.output = folder / "work", folder / "whole", folder / "output"
        self.command = ["bash", str(REPOSITORY / "scripts" / f"{name}.sh"), "--smallest", "--work-dir", str(self.work)]
        if name != "quickstart":
            self.command += ["--seeds", "110 111"]

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHON": PYTHON, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        with self.output.open("ab") as stream:
            return subprocess.Popen(self.command, env=environment, stdout=stream, stderr=stream, start_new_session=True)

    def whole_run(self) -> float:
        began = time.monotonic()
        assert self.start().wait() == 0, self.output.read_text()[-2000:]
        self.work.rename(self.whole)
        return time.monotonic() - began

    def moment(self, draw: random.Random, seconds: float, victim: str) -> tuple[str, list[str]]:
        share = draw.uniform(0.05, 0.95)
        while True:  # a run may take less time than the one before
            shutil.rmtree(self.work, ignore_errors=True)
            began, after = time.monotonic(), share * seconds
            script = self.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                script.wait(after)
            if script.poll() is None:
                break
            assert script.returncode == 0, self.output.read_text()[-2000:]
            seconds = time.monotonic() - began
        about = f"{victim} after {after:.0f} of {seconds:.0f} s"
        if victim == "TERM":
            script.terminate()
        else:
            os.killpg(script.pid, signal.SIGKILL)
        code = script.wait()
        faults = [f"exit code {code}"] if code not in ((143,) if victim == "TERM" else (-signal.SIGKILL,)) else []
        if alive := orphans(self.work, PATIENCE_S):
            return about, [f"{len(alive)} processes outlive it"]
        if self.start().wait() != 0:
            return about, [*faults, f"started again: {self.output.read_text()[-300:]}"]
        ignored = r"\.log$|commands\.txt|run\.json|report\.html|metrics\.json|training_state\.pt|\.done$"
        return about, [*faults, *differences(self.whole, self.work, ignored), *unfinished(self.work)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=["torchrun", "script"])
    parser.add_argument("name", help=f"of {', '.join(PROGRAMS)}; or of a script, without .sh")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, counts = random.Random(args.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="moments-") as folder:
        run = (Torchrun if args.kind == "torchrun" else Script)(args.name, Path(folder))
        seconds = run.whole_run()
        victims = ("parent", "worker", "all") if args.kind == "torchrun" else ("TERM", "KILL")
        for number in range(args.trials):
            about, faults = run.moment(draw, seconds, victims[number % len(victims)])
            print(f"{number} {about}: {faults or 'the same end'}", flush=True)
            counts["faults"] += bool(faults)
    print(json.dumps({"name": args.name, "trials": args.trials, "faults": counts["faults"]}), flush=True)
    sys.exit(bool(counts["faults"]))


if __name__ == "__main__":
    main()
