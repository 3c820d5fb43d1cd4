"""Flags of 2021 and of today; what a user can get wrong ends in one clear line and exit code 2."""

from __future__ import annotations

import shlex
from collections import OrderedDict

import pytest
import torch
import transformers
from glue.arguments import parse
from glue.flags_2021 import modernise

from examples.common.errors import UserError
from examples.common.lock import LOCK_NAME
from tests.nlu.world import lora_flags, run, run_here, save_base, sentences, train_flags, write_cola


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--evaluation_strategy epoch", "--eval_strategy epoch"),
        ("--evaluation_strategy=epoch", "--eval_strategy epoch"),
        ("--warmup_ratio 0.06", "--warmup_steps 0.06"),
        ("--warmup_ratio 0.1 --warmup_steps 500", "--warmup_steps 500"),
        ("--warmup_steps 0 --warmup_ratio 0.1", "--warmup_steps 0.1"),
        ("--warmup_steps 100", "--warmup_steps 100"),
        ("--group_by_length", "--train_sampling_strategy group_by_length"),
        ("--group_by_length False", ""),
        ("--no_cuda", "--use_cpu"),
        ("--adafactor", "--optim adafactor"),
        ("--per_gpu_train_batch_size 4", "--per_device_train_batch_size 4"),
        ("--local-rank=3 --fp16", "--local_rank 3 --fp16"),
        ("--learning_rate -1e-3", "--learning_rate -1e-3"),
        ("--no_pad_to_max_length", "--pad_to_max_length false"),
        ("--debug --fp16", "--fp16"),
        ("--debug False", ""),
        ("--debug underflow_overflow", "--debug underflow_overflow"),
    ],
)
def test_old_names_become_new_ones(old, new):
    assert modernise(old.split()) == new.split()


def test_flags_without_a_reader_are_accepted_with_one_warning(capsys):
    assert modernise(["--fp16_opt_level", "O1", "--overwrite_cache", "--seed", "3"]) == ["--seed", "3"]
    assert capsys.readouterr().err == "warning: no effect any more: --fp16_opt_level --overwrite_cache\n"


ENOUGH = "--model_name_or_path m --task_name rte --output_dir o --do_eval "


def test_every_flag_of_the_released_scripts_is_understood():
    model, data, training = parse(
        shlex.split(
            "--model_name_or_path m --task_name MNLI --output_dir o --do_train --do_eval --max_seq_length 256 "
            "--per_device_train_batch_size 8 --learning_rate 1e-4 --num_train_epochs 5 --overwrite_output_dir "
            "--logging_steps 10 --evaluation_strategy steps --eval_steps 500 --save_strategy steps --save_steps 500 "
            "--warmup_steps 1000 --weight_decay 0 --cls_dropout 0.15 --apply_lora --lora_r 16 --lora_alpha 32 "
            "--seed 42 --use_deterministic_algorithms --reg_loss_wgt 1.0 --masking_prob 0.1 --lora_path x.bin"
        )
    )
    assert (data.task_name, training.eval_strategy, training.eval_steps, training.warmup_steps) == (
        "mnli",
        "steps",
        500,
        1000,
    )
    assert (model.lora_r, model.lora_alpha, training.cls_dropout, model.masking_prob) == (16, 32, 0.15, 0.1)
    assert training.optim == "adamw_torch" and training.max_grad_norm == 1.0 and not data.pad_to_max_length


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("tensorboard wandb", ["tensorboard", "wandb"]), ("tensorboard", ["tensorboard"]), ("none", []), (None, [])],
)
def test_results_are_reported_to_as_many_places_as_are_named(flags, expected, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # --logging_dir sets it; put back after the test
    words = (ENOUGH + (f"--report_to {flags}" if flags else "")).split()
    _, data, training = parse([*words, "--pad_to_max_length", "--no_pad_to_max_length"])
    assert training.report_to == expected and not data.pad_to_max_length
    assert parse([*words, "--logging_dir", "x"])[2].report_to == (expected or ["tensorboard"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--task_name glue", "--task_name glue: unknown task; choose from cola, mnli"),
        ("--warmup_ratio 1.5", r"--warmup_ratio 1.5: expected a number in \[0, 1\)"),
        ("--no_such_flag 3", "--no_such_flag"),
        ("--seed zero", "invalid int value: 'zero'"),
        ("--lora_path x.bin", "--lora_path has an effect only with --apply_lora"),
        (
            "--adapter_path x",
            "--adapter_path has an effect only with --apply_adapter, --apply_bitfit or --train_head_only",
        ),
        (
            "--train_head_only --apply_bitfit",
            "--train_head_only excludes --apply_lora, --apply_adapter and --apply_bitfit",
        ),
        ("--train_file a.csv --data_dir d", "exclude each other"),
        ("--train_file a.csv", "--do_eval and --evaluation_strategy need --validation_file"),
        ("--fp16", "--fp16 needs a GPU"),
        ("--export_merged m", "--export_merged needs --apply_lora"),
        ("--evaluation_strategy sometimes", "sometimes"),
        ("--max_train_samples 0", "--max_train_samples must be at least 1, got 0"),
        ("--logging_steps inf", "--logging_steps, --eval_steps and --save_steps must be finite"),
        ("--max_seq_length 1", "--max_seq_length must be at least 3"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        parse((ENOUGH + flags).split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_name_or_path m --task_name rte --output_dir o", "nothing to do"),
        ("--model_name_or_path m --output_dir o --do_eval", "give --task_name, or --train_file"),
        ("--task_name rte --output_dir o --do_eval", "model_name_or_path"),
        ("--model_name_or_path m --task_name rte --do_eval", "--output_dir is missing"),
    ],
)
def test_missing_flags_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        parse(flags.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[1]", "expected a JSON object of flags"), ("[" * 100_000, "not JSON")],
    ids=len,
)
def test_a_broken_file_of_flags_is_refused(text, message, tmp_path):
    (tmp_path / "flags.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parse([str(tmp_path / "flags.json")])


# --- whole programs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Folder of a run with LoRA of rank 4."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, *world.flags(folder), *lora_flags(), *train_flags(epochs=1), "--overwrite_output_dir")
    return folder


def refused(monkeypatch, message, *flags):
    with pytest.raises(UserError, match=message):
        run_here(monkeypatch, *flags)


@pytest.mark.slow
def test_a_file_of_another_base_or_rank_or_alpha_is_refused(world, trained, tmp_path, monkeypatch):
    start = [*world.flags(tmp_path / "out"), "--do_eval", "--apply_lora", "--lora_path", trained]
    other = save_base(tmp_path / "other", [text for text, _ in sentences(160, 0)], seed=4)
    refused(monkeypatch, "was trained on another base model", *start, "--model_name_or_path", other)
    refused(monkeypatch, "--lora_r 8: .* was trained with 4", *start, "--lora_r", 8)
    refused(monkeypatch, "--lora_alpha 16: .* was trained with 8", *start, "--lora_alpha", 16)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_NAME]


def test_a_bare_file_of_another_model_is_refused_by_its_shapes(world, tmp_path, monkeypatch):
    tensors = OrderedDict(
        (f"roberta.encoder.layer.0.attention.self.query.lora_{f}", torch.zeros(shape))
        for f, shape in (("A", (4, 8)), ("B", (8, 4)))
    )
    torch.save(tensors, tmp_path / "x.bin")
    flags = [*world.flags(tmp_path / "out"), *lora_flags(), "--do_eval", "--lora_path", tmp_path / "x.bin"]
    refused(monkeypatch, r"lora_A has shape \(4, 8\), the model \(4, 16\)", *flags)


def test_evaluating_without_a_trained_head_is_refused(world, tmp_path, monkeypatch):
    refused(monkeypatch, "the classifier would be random", *world.flags(tmp_path / "o"), *lora_flags(), "--do_eval")


@pytest.mark.slow
def test_resuming_with_other_settings_is_refused(world, tmp_path, monkeypatch):
    flags = [*world.flags(tmp_path / "out"), *train_flags(epochs=1), "--save_strategy", "epoch"]
    run_here(monkeypatch, *flags, *lora_flags())
    refused(monkeypatch, "was trained with lora_alpha 8.*, this run has 16", *flags, *lora_flags(alpha=16))
    refused(monkeypatch, "was trained with r 4, this run has 2", *flags, *lora_flags(r=2))
    run_here(monkeypatch, *flags, *lora_flags(r=2), "--overwrite_output_dir")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--learning_rate", 1e-5], "was trained with learning_rate 0.01, this run has 1e-05"),
        (["--seed", 1], "was trained with seed 0, this run has 1"),
        (["--per_device_train_batch_size", 16], "was trained with total_train_batch_size 8, this run has 16"),
        (["--max_train_samples", 40], "was trained with other training examples"),
    ],
)
def test_resuming_with_another_rate_seed_batch_or_data_is_refused(change, message, saved_twice, monkeypatch):
    flags, out = saved_twice
    before = (out / "metrics.json").read_bytes()
    refused(monkeypatch, message, *flags, *change)
    assert (out / "metrics.json").read_bytes() == before
    # the same batch, spread in another way, goes on
    run_here(monkeypatch, *flags, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2)


@pytest.fixture(scope="module")
def saved_twice(world, tmp_path_factory):
    """Flags and folder of a run that left checkpoints."""
    out = tmp_path_factory.mktemp("saved") / "out"
    flags = [*world.flags(out), *lora_flags(), *train_flags(epochs=1), "--save_strategy", "epoch"]
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, *flags)
    return flags, out


@pytest.mark.slow
def test_messages_of_the_trainer_reach_the_user(world, tmp_path, monkeypatch):
    """Loading speaks for itself; from then on transformers' own warnings are shown."""
    run_here(monkeypatch, *world.flags(tmp_path), *lora_flags(), *train_flags(epochs=1), "--overwrite_output_dir")
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING


def test_a_folder_with_other_things_is_not_written_into(world, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    refused(monkeypatch, "is not empty; pass --overwrite_output_dir", *world.flags(tmp_path), *train_flags())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_model_with_lora_inside_is_not_mistaken_for_a_base(world, tmp_path, monkeypatch):
    """transformers would only warn, and lose the update."""
    out = tmp_path / "out"
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=1), "--save_full_model")
    flags = [*world.flags(tmp_path / "again"), "--model_name_or_path", out, "--do_eval"]
    refused(monkeypatch, "lora_A and would lose it; give the plain base", *flags)


def test_methods_that_a_model_does_not_know_are_refused(world, tmp_path, monkeypatch):
    flags = [*world.flags(tmp_path / "out"), *train_flags(epochs=1)]
    refused(monkeypatch, "--cls_dropout is DeBERTa's", *flags, *lora_flags(), "--cls_dropout", 0.1)
    refused(monkeypatch, "choose from houlsby, pfeiffer", *flags, "--apply_adapter", "--adapter_type", "parallel")
    refused(monkeypatch, "--apply_lora needs --lora_r and --lora_alpha", *flags, "--apply_lora")


@pytest.mark.slow
def test_the_program_ends_with_exit_code_two_and_one_line(world, tmp_path):
    glue = write_cola(tmp_path, {"train": [("fine", 1)], "dev": []})
    (glue / "CoLA/train.tsv").write_text("gj04\t1\t\tfine\ngj04\tbroken\n", encoding="utf-8")
    flags = [*world.flags(tmp_path / "out"), "--data_dir", glue, *lora_flags(), *train_flags()]
    result = run(*flags, check=False)
    assert result.returncode == 2
    # beside what torchao, where it is installed, says about itself while it is imported
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error", "warning", "Traceback"))]
    assert lines == [f"error: {glue}/CoLA/train.tsv line 2: 2 tab-separated fields, expected 4"]
    absent = run(*world.flags(tmp_path / "out"), "--model_name_or_path", tmp_path / "none", "--do_eval", check=False)
    assert absent.returncode == 2 and "Traceback" not in absent.stderr
    assert f"error: --model_name_or_path {tmp_path / 'none'}" in absent.stderr
