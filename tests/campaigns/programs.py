"""The programs that are killed: tiny inputs, a command, and the folder of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.shared_data import REPOSITORY

NLG = REPOSITORY / "examples" / "NLG" / "src"
GLUE = REPOSITORY / "examples" / "NLU" / "examples" / "text-classification"
CLM = REPOSITORY / "examples" / "CLM"


@dataclass(frozen=True)
class Program:
    """``make`` writes the inputs; the results are in ``out``, or files and folders whose names start so."""

    make: Callable[[Path], object]
    words: tuple[str, ...]
    again: tuple[str, ...] = ()  # further words of the command that goes on


def words_of(*flags: object) -> tuple[str, ...]:
    return tuple(map(str, flags))


def gpt2_ft() -> Program:
    from tests.nlg.train.helpers import tiny_flags, write_tiny_files

    flags = {"lora_dropout": 0.1, "grad_acc": 3, "clip": 0.5, "max_epoch": 3, "correct_bias": None}
    return Program(write_tiny_files, words_of(NLG / "gpt2_ft.py", *tiny_flags(work_dir="out", **flags)), ("--resume",))


def gpt2_beam() -> Program:
    from tests.nlg.beam.conftest import files
    from tests.nlg.beam.test_beam_program import arguments

    class Folders:
        def __init__(self, folder: Path) -> None:
            self.mktemp = lambda name: folder

    make = files.__wrapped__ if hasattr(files, "__wrapped__") else files.__pytest_wrapped__.obj
    words = arguments("--init_checkpoint full.pt --lora_dim 4 --lora_alpha 32 --batch_size 2 --output_order original")
    return Program(lambda folder: make(Folders(folder)), words_of(NLG / "gpt2_beam.py", *words))


def run_glue() -> Program:
    from tests.nlu.world import lora_flags, save_base, sentences, train_flags, write_cola

    def make(folder: Path) -> None:
        rows = {"train": sentences(40, 0), "dev": sentences(20, 1)}
        write_cola(folder / "glue", rows)
        save_base(folder / "base", [text for text, _ in rows["train"]])

    flags = words_of("--model_name_or_path", "base", "--task_name", "cola", "--data_dir", "glue", "--output_dir", "out")
    flags += words_of("--max_seq_length", 32, *lora_flags(), *train_flags(), "--do_eval", "--logging_steps", 3)
    flags += words_of("--evaluation_strategy", "epoch", "--save_strategy", "epoch", "--save_total_limit", 1)
    return Program(make, words_of(GLUE / "run_glue.py", *flags))


def run_clm(*more: object) -> Program:
    from tests.clm.world import films, save_base, write_jsonl

    def make(folder: Path) -> None:
        save_base(folder / "base")
        write_jsonl(folder / "films.jsonl", films(16))

    flags = words_of("--model_name_or_path", "base", "--train_file", "films.jsonl", "--validation_file", "films.jsonl")
    flags += words_of("--test_file", "films.jsonl", "--do_train", "--do_eval", "--do_predict", "--task", "cls")
    flags += words_of("--max_steps", 4, "--save_steps", 2, "--per_device_train_batch_size", 4, "--lora_dropout", 0.2)
    flags += words_of("--learning_rate", 1e-2, "--lora_r", 2, "--disable_tqdm", "true", "--output_dir", "out", *more)
    return Program(make, words_of(CLM / "run_clm.py", *flags))


SAVER = (
    "import torch; from tests.loralib.test_adapter_folder import adapted, saved; import pathlib; torch.manual_seed(0)"
)


def save_adapter() -> Program:
    def make(folder: Path) -> None:
        (folder / "saver.py").write_text(f"{SAVER}; saved(pathlib.Path('out'), adapted(trainable='classifier'))\n")

    return Program(make, ("saver.py",))


def loralib_command(name: str) -> Program:
    from tests.loralib.test_command_line import train_gpt2

    def make(folder: Path) -> None:
        train_gpt2(folder)
        torch.set_grad_enabled(True)

    first = ("export", "model.3.pt", "--base", "base") if name == "export" else ("merge", "base", "model.3.pt")
    return Program(make, ("-m", "loralib", *first, "--out", "out"))


PROGRAMS: dict[str, Callable[[], Program]] = {
    "gpt2_ft": gpt2_ft,
    "gpt2_beam": gpt2_beam,
    "run_glue": run_glue,
    "run_clm": run_clm,
    "save_adapter": save_adapter,
    "export": lambda: loralib_command("export"),
    "merge": lambda: loralib_command("merge"),
}
