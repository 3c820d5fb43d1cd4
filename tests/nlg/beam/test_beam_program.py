"""The decoding program as a user runs it: recorded outputs, several processes, interruptions, and every mistake."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import gpt2_beam
import pytest
import torch
from generation.predictions import PartialPredictions
from generation.search import Search
from gpt2.checkpoint import load_into, save_trained
from gpt2.config import LoRAConfig
from gpt2.model import GPT2LMModel
from train.distributed import Process

from examples.common.errors import UserError
from tests.nlg.beam.helpers import NLG, TINY
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

PROGRAM = REPOSITORY / "examples" / "NLG" / "src" / "gpt2_beam.py"
# Those of the recorded runs
SEARCH = "--seq_len 40 --eval_len 14 --beam 4 --length_penalty 0.8 --no_repeat_ngram_size 4 --eos_token_id 100"
RECORDED = (NLG / "cli" / "beam_world1_pred.jsonl").read_text()


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """An empty working folder that sees the files."""
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PT_OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(more: str) -> list[str]:
    """Flags of the recorded runs, then ``more``; a flag given twice has its last value."""
    shared = f"--platform local --device cpu --data prompts.jsonl --model_card card.json --work_dir out {SEARCH}"
    return shlex.split(f"{shared} {more}")


def run_here(more: str) -> None:
    gpt2_beam.main(arguments(more))


def start(more: str, launcher: str = "", program: Path = PROGRAM) -> subprocess.Popen:
    command = [PYTHON, *shlex.split(launcher), str(program), *arguments(more)]
    path = os.pathsep.join([str(REPOSITORY), str(PROGRAM.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHON_EXEC": PYTHON}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; a program that hangs is ended with the test."""
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, out, err


def names(folder: Path) -> list[str]:
    """Of the files in it, locks left out: they stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def predictions(path: str = "out/beam_prediction.jsonl") -> dict[int, list[int]]:
    with open(path, encoding="utf-8") as stream:
        return {row["id"]: row["predict"] for row in map(json.loads, stream)}


EXPECTED = {row["id"]: row["predict"] for row in map(json.loads, RECORDED.splitlines())}


@pytest.mark.slow
def test_the_recorded_run_is_repeated_to_the_byte(folder):
    process = start(
        "--init_checkpoint full.pt --lora_dim 4 --lora_alpha 32 --output_order original --output_file p.jsonl"
    )
    code, out, err = finish(process)
    assert code == 0, err
    assert (folder / "out" / "p.jsonl").read_text() == RECORDED
    for line in (
        "        - eos_token_id : [50256, 100]",
        "Experiment dir : out",
        "loading model pretrained weight.",
        "model sampling ...",
        "inference samples 0",
        "saving prediction file out/p.jsonl",
        "cleanup dist ...",
    ):
        assert out.splitlines().count(line) == 1, line
    assert names(folder / "out") == ["p.jsonl", "p.jsonl.run.json"]


@pytest.mark.slow
def test_two_processes_share_the_prompts_and_write_one_file(folder):
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2"
    process = start("--init_checkpoint full.pt --lora_alpha 32 --batch_size 2 --output_order original", launcher)
    code, out, err = finish(process)
    assert code == 0, err
    assert (folder / "out" / "beam_prediction.jsonl").read_text() == (NLG / "cli/beam_world2_pred.jsonl").read_text()
    assert out.count("cleanup dist ...") == 2
    assert names(folder / "out") == ["beam_prediction.jsonl", "beam_prediction.jsonl.run.json"]


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_lines_are_sorted_by_id_and_equal_for_every_batch_size(folder, batch_size):
    run_here(f"--init_checkpoint full.pt --lora_alpha 32 --batch_size {batch_size}")
    found = predictions()
    assert found == EXPECTED
    assert list(found) == sorted(found)


def test_lora_alone_is_decoded_on_top_of_its_base(folder):
    run_here("--init_checkpoint lora.pt --base_checkpoint base.bin --lora_alpha 32")
    assert predictions() == EXPECTED


def test_a_self_describing_checkpoint_needs_no_flags(folder):
    model = GPT2LMModel(TINY, LoRAConfig(r=4, alpha=32, dropout=0.1))
    base = load_into(model, "lora.pt", "base.bin")
    save_trained("model.7.pt", model, base, step=7)
    run_here("--init_checkpoint model.7.pt")
    assert predictions() == EXPECTED
    with pytest.raises(UserError, match="trained with --lora_alpha 32, got 64"):
        run_here("--init_checkpoint model.7.pt --lora_alpha 64")


def test_a_base_model_is_decoded_without_lora(folder):
    run_here("--init_checkpoint base.bin --lora_dim 0")
    with_flag = predictions()
    run_here("--init_checkpoint base.bin")
    assert predictions() == with_flag != EXPECTED


def test_equal_prompts_are_decoded_once_and_need_no_completion(folder, capsys):
    rows = [json.loads(line)["context"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    (folder / "twice.jsonl").write_text("".join(json.dumps({"context": row}) + "\n" for row in [*rows, *rows]))
    run_here("--init_checkpoint full.pt --lora_alpha 32 --data twice.jsonl")
    assert predictions() == EXPECTED | {row + 6: tokens for row, tokens in EXPECTED.items()}
    record = json.loads((folder / "out" / "beam_prediction.jsonl.run.json").read_text())
    assert (record["rows"], record["distinct_prompts"]) == (12, 6)


def test_long_prompts_lose_their_beginning(folder, capsys):
    rows = [json.loads(line)["context"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    (folder / "long.jsonl").write_text("".join(json.dumps({"context": [7] * 30 + row}) + "\n" for row in rows))
    (folder / "cut.jsonl").write_text(
        "".join(json.dumps({"context": ([7] * 30 + row)[-26:]}) + "\n" for row in rows)  # 40 - 14 ids are left
    )
    run_here("--init_checkpoint full.pt --lora_alpha 32 --data long.jsonl --output_file long")
    assert "6 of 6 prompts are over 26 ids" in capsys.readouterr().err
    run_here("--init_checkpoint full.pt --lora_alpha 32 --data cut.jsonl --output_file cut")
    assert predictions("out/long") == predictions("out/cut")


def test_end_ids_beyond_the_vocabulary_are_harmless(folder):
    run_here("--init_checkpoint full.pt --lora_alpha 32 --eos_token_id 99999 --min_length 3")
    assert len(predictions()) == 6


def test_bfloat16_is_an_option(folder):
    run_here("--init_checkpoint full.pt --lora_alpha 32 --bf16")
    assert len(predictions()) == 6


# --- interruptions --------------------------------------------------------------------------------------------------


def test_results_of_an_interrupted_run_are_taken_over(folder, monkeypatch):
    """The first run breaks off after three prompts, whose results are then changed on disk: the second keeps them."""
    more = "--init_checkpoint full.pt --lora_alpha 32 --batch_size 1"
    found = []
    add = PartialPredictions.add

    def breaks_off(self, results):
        add(self, results)
        found.extend(results)
        if len(found) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialPredictions, "add", breaks_off)
        run_here(more)
    partial = folder / "out" / "beam_prediction.jsonl.partial"
    assert not (folder / "out" / "beam_prediction.jsonl").exists()
    header, *lines = partial.read_text().splitlines()
    assert len(lines) == 3
    marked = [json.dumps({"id": row, "predict": [row, row]}) for row in found]
    partial.write_text("\n".join([header, *marked, '{"id": 5, "pre']))  # the last line was being written
    run_here(more)
    assert predictions() == EXPECTED | {row: [row, row] + [0] * 12 for row in found}
    assert not partial.exists()


@pytest.mark.parametrize(
    "change", ["--beam 3", "--length_penalty 1", "--bf16", "--lora_alpha 16", "--data other.jsonl"]
)
def test_results_of_other_settings_are_not_taken_over(folder, change, capsys):
    (folder / "other.jsonl").write_text((folder / "prompts.jsonl").read_text() + '{"context": [5, 100]}\n')
    run_here(f"--init_checkpoint full.pt --lora_alpha 32 {change} --output_file expected")
    header = json.dumps({"settings_sha256": "0" * 64})
    (folder / "out" / "p.partial").write_text(f'{header}\n{{"id": 0, "predict": [1]}}\n')
    run_here(f"--init_checkpoint full.pt --lora_alpha 32 {change} --output_file p")
    assert predictions("out/p") == predictions("out/expected")
    assert "other settings" in capsys.readouterr().err


def header_of(folder, more: str, monkeypatch) -> str:
    """First line of the partial file that a run starts."""

    def stops(self, results):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialPredictions, "add", stops)
        run_here(more)
    path = folder / "out" / "beam_prediction.jsonl.partial"
    header = path.read_text().splitlines()[0]
    path.unlink()
    return header


@pytest.mark.slow
def test_everything_that_changes_results_changes_the_header(folder, monkeypatch):
    plain = "--init_checkpoint full.pt --lora_alpha 32"
    (folder / "other.jsonl").write_text((folder / "prompts.jsonl").read_text() + '{"context": [5, 100]}\n')
    state = torch.load("full.pt", weights_only=True)
    state["model_state_dict"]["module.transformer.wpe.weight"][0, 0] += 1
    torch.save(state, "other.pt")
    changes = ["", "--beam 3", "--eval_len 13", "--seq_len 39", "--length_penalty 1", "--no_repeat_ngram_size 3"]
    changes += ["--repetition_penalty 1.1", "--min_length 2", "--eos_token_id 17", "--bf16", "--lora_alpha 16"]
    changes += ["--data other.jsonl", "--init_checkpoint other.pt"]
    headers = [header_of(folder, f"{plain} {change}", monkeypatch) for change in changes]
    assert len(set(headers)) == len(changes)
    assert header_of(folder, f"{plain} --batch_size 2 --output_order original", monkeypatch) == headers[0]


def test_another_number_of_processes_takes_over_what_all_have_found(tmp_path):
    output = tmp_path / "p"
    header = json.dumps({"settings_sha256": "key"})
    (tmp_path / "p.partial").write_text(f'{header}\n{{"id": 0, "predict": [1]}}\n')
    (tmp_path / "p.partial.1").write_text(f'{header}\n{{"id": 4, "predict": [2]}}\n')
    (tmp_path / "p.partial.notes").write_text("not ours")
    with PartialPredictions(output, "key", Process()) as partial:
        assert partial.done == {0: [1], 4: [2]}
        partial.add({7: [3]})
    assert not (tmp_path / "p.partial.1").exists()
    with PartialPredictions(output, "key", Process()) as partial:
        assert partial.done == {0: [1], 4: [2], 7: [3]}
        partial.remove()
    assert names(tmp_path) == ["p.partial.notes"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_found_and_ends_with_130(folder):
    contexts = [[a, b, 100] for a in range(40) for b in range(20)]
    (folder / "many.jsonl").write_text("".join(json.dumps({"context": c}) + "\n" for c in contexts))
    more = "--init_checkpoint full.pt --lora_alpha 32 --data many.jsonl --batch_size"
    process = start(f"{more} 1")
    partial = folder / "out" / "beam_prediction.jsonl.partial"
    while process.poll() is None and not (partial.exists() and partial.read_text().count("\n") > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "interrupted\n")
    n_found = partial.read_text().count("\n") - 1
    assert 2 <= n_found < len(contexts)
    run_here(f"{more} 400")
    record = json.loads((folder / "out" / "beam_prediction.jsonl.run.json").read_text())
    assert record["resumed"] == n_found
    assert len(predictions()) == len(contexts)


# --- mistakes -------------------------------------------------------------------------------------------------------

FULL = "--init_checkpoint full.pt --lora_alpha 32"
MISTAKES = {
    "--lora_dim 4": "--init_checkpoint is missing",
    "--init_checkpoint nowhere.pt": "nowhere.pt does not exist",
    "--init_checkpoint lora.pt --lora_alpha 32": "lora.pt holds LoRA weights only.*--base_checkpoint",
    "--init_checkpoint lora.pt --lora_alpha 32 --base_checkpoint none.bin": "none.bin",
    f"{FULL} --base_checkpoint base.bin": "holds the base weights itself",
    f"{FULL} --lora_dim 8": "LoRA of rank 4, but --lora_dim is 8",
    f"{FULL} --lora_dim 0": "LoRA of rank 4, but --lora_dim is 0",
    f"{FULL} --lora_dim -1": "--lora_dim",
    "--init_checkpoint full.pt": "does not record the alpha.*pass --lora_alpha",
    "--init_checkpoint base.bin --lora_dim 4 --lora_alpha 32": "base.bin holds no LoRA weights",
    f"{FULL} --model_card gpt2.xl": "expected one of gpt2.sm",
    f"{FULL} --model_card gpt2.sm": "base weights are missing.*--model_card",
    f"{FULL} --data nowhere.jsonl": "nowhere.jsonl does not exist",
    f"{FULL} --data empty.jsonl": "empty.jsonl is empty",
    f"{FULL} --data text.jsonl": "text.jsonl line 1: 'context' must be a list of token ids.*gpt2_encode.py",
    f"{FULL} --data large.jsonl": "large.jsonl line 2: 'context' holds the id 101.*ends at 100",
    f"{FULL} --data blank.jsonl": "blank.jsonl line 2: the context is empty",
    f"{FULL} --beam 102": "beam 102 is wider than the vocabulary of 101",
    f"{FULL} --beam 0": "--beam must be at least 1, got 0",
    f"{FULL} --batch_size 0": "the batch size must be at least 1",
    f"{FULL} --no_repeat_ngram_size -1": "--no_repeat_ngram_size must be at least 0",
    f"{FULL} --repetition_penalty 0": "--repetition_penalty must be above 0",
    f"{FULL} --length_penalty nan": "--length_penalty nan",
    f"{FULL} --eval_len 40": "no room for a prompt",
    f"{FULL} --eval_len 60 --seq_len 99": "eval_len 60 exceed the 64 positions",
    f"{FULL} --output_file .": "is a folder",
    f"{FULL} --output_file none/p.jsonl": "none",
    f"{FULL} --work_dir prompts.jsonl": "cannot create the folder prompts.jsonl",
}


@pytest.mark.slow
@pytest.mark.parametrize("more", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_file(folder, more):
    (folder / "empty.jsonl").write_text("")
    (folder / "text.jsonl").write_text('{"context": "name : Blue Spice"}\n')
    (folder / "large.jsonl").write_text('{"context": [5, 100]}\n{"context": [101]}\n')
    (folder / "blank.jsonl").write_text('{"context": [5, 100]}\n{"context": [], "completion": [5]}\n')
    before = names(folder)
    with pytest.raises((UserError, OSError), match=MISTAKES[more]) as caught:
        run_here(more)
    if isinstance(caught.value, UserError):
        assert "\n" not in str(caught.value)
    left = [name for name in names(folder) if name not in before]
    assert left in ([], ["out"])
    assert left == [] or names(folder / "out") == []


@pytest.mark.slow
def test_a_mistake_ends_the_program_with_2_and_without_a_traceback(folder):
    process = start("--init_checkpoint nowhere.pt")
    code, _, err = finish(process)
    assert (code, err) == (2, "error: checkpoint nowhere.pt does not exist\n")


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("prompts.jsonl", ""),
        ("full.pt", ""),
        ("card.json", ""),
        ("base.bin", "--init_checkpoint lora.pt --base_checkpoint base.bin"),
        ("p", "--data p.run.json"),
        ("p", "--data p.partial"),
    ],
)
def test_an_output_in_place_of_an_input_is_refused(folder, output, more):
    for name in ("p.run.json", "p.partial"):
        shutil.copy(folder / "prompts.jsonl", folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"would be written, but it is an input too"):
        run_here(f"{FULL} --work_dir . --output_file {output} {more}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("more", "static"), [("", False), ("--cuda_graphs", True)])
def test_cuda_graphs_are_off_unless_asked_for(folder, monkeypatch, more, static):
    asked = []

    class Recorded(Search):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            asked.append(self.static)

    monkeypatch.setattr("generation.run.Search", Recorded)
    run_here(f"{FULL} {more}")
    assert asked == [static] and predictions() == EXPECTED
    assert inspect.signature(Search).parameters["static"].default is False


def test_what_a_kill_during_a_save_left_is_removed_at_the_next_start(folder, capsys):
    (folder / "out").mkdir()
    for name in (".p.0a_3bcde.partial", ".p.run.json.0a_3bcde.partial", ".p.partial.0a_3bcde.partial"):
        (folder / "out" / name).write_text("{")
    (folder / "out" / ".q.0a_3bcde.partial").write_text("of another output")
    run_here(f"{FULL} --output_file p")
    assert "removed 3 unfinished files of a killed run from out\n" in capsys.readouterr().out
    assert names(folder / "out") == [".q.0a_3bcde.partial", "p", "p.run.json"]


def test_two_runs_do_not_decode_to_one_output(folder):
    (folder / "out").mkdir()
    with PartialPredictions(folder / "out" / "p", "key", Process()):
        with pytest.raises(UserError, match=r"^out is in use: another process holds out/.p.lock$"):
            run_here(f"{FULL} --output_file p")
        run_here(f"{FULL} --output_file q")
    run_here(f"{FULL} --output_file p")
    assert predictions("out/p") == predictions("out/q") == EXPECTED


def test_what_was_written_is_printed_with_its_full_path(folder, capsys):
    run_here(f"{FULL} --output_file p")
    assert f"\nwrote 6 predictions to {folder.resolve() / 'out' / 'p'}\n" in capsys.readouterr().out


SLOW_SECOND = """
import sys, time
from datetime import timedelta
import gpt2_beam, generation.run
from train.distributed import distributed_run
from train.flags import parse

decode = generation.run.decode
def late(model, prompts, settings, batch_size, process, **more):
    time.sleep({pause} * process.rank)
    assert not (process.rank and {dies})
    return decode(model, prompts, settings, batch_size, process, **more)

generation.run.decode = late
args = parse(gpt2_beam.build_parser(), sys.argv[1:])
with distributed_run(args, timeout=timedelta(seconds=6)) as process:
    gpt2_beam.generate(args, process)
"""


@pytest.mark.slow
def test_a_process_that_is_done_waits_for_a_slow_one_beyond_the_time_limit(folder):
    (folder / "late.py").write_text(SLOW_SECOND.format(pause=15, dies=False))
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2"
    code, _, err = finish(start(FULL, launcher, program=folder / "late.py"))
    assert code == 0, err
    assert predictions() == EXPECTED


@pytest.mark.slow
def test_a_process_that_is_done_does_not_wait_for_a_dead_one(folder):
    (folder / "late.py").write_text(SLOW_SECOND.format(pause=1, dies=True))
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2"
    code, _, err = finish(start(FULL, launcher, program=folder / "late.py"))
    assert code == 1 and "AssertionError" in err


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"id": 0}',
        '{"id": [], "predict": [1]}',
        "[" * 100_000,
        '{"id": 0, "predict": [1e999]}',
        '{"id": 1e999, "predict": [1]}',
        '{"id": true, "predict": [1]}',
    ],
)
def test_a_damaged_line_of_partial_results_is_decoded_again(folder, monkeypatch, capsys, line):
    header = header_of(folder, FULL, monkeypatch)
    (folder / "out" / "beam_prediction.jsonl.partial").write_text(f"{header}\n{line}\n")
    run_here(FULL)
    assert predictions() == EXPECTED
    assert "beam_prediction.jsonl.partial has a damaged line" in capsys.readouterr().err
