"""FSDP: sharded over two processes a run is that of one process, and its files are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from glue.arguments import GlueTrainingArguments, parse
from glue.checkpoint import read_trained
from transformers import AutoConfig, AutoModel
from transformers.training_args import ParallelMode

from examples.common.errors import UserError
from tests.nlu.world import (
    PROGRAM,
    assert_close_weights,
    assert_same_weights,
    lora_flags,
    make_tokenizer,
    one_step,
    read_json,
    recorded_deberta,
    run,
    run_here,
    sentences,
    tiny_gpt2,
    train_flags,
)
from tests.shared_data import REPOSITORY

ON_CPU = REPOSITORY / "tests/common/fsdp_on_cpu.py"
FSDP = ["--fsdp", "--fsdp_config", REPOSITORY / "examples/common/fsdp.json"]


def run_sharded(*flags: object):
    return run(PROGRAM, *flags, *FSDP, processes=2, program=ON_CPU)


def base_of(kind: str, still_base: Path, folder: Path) -> Path:
    """A base without dropout, so that its gradients depend on the batch alone."""
    if kind == "roberta":
        return still_base
    tokenizer = make_tokenizer([text for text, _ in sentences(160, 0)])
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if kind in ("bert", "deberta"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        sizes |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]} if kind == "deberta" else {}
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), initializer_range=0.2, **sizes, **off)
        model = AutoModel.from_config(config)
    elif kind == "deberta-v2":
        model = recorded_deberta(vocab_size=len(tokenizer), pad_token_id=1, **off).deberta
    else:
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = tiny_gpt2(vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2, **off).transformer
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        *(("bert", "BertLayer"), ("roberta", "RobertaLayer"), ("deberta", "DebertaLayer")),
        *(("deberta-v2", "DebertaV2Layer"), ("gpt2", "GPT2Block")),
    ],
)
def test_two_sharded_processes_give_losses_weights_and_files_of_one(
    kind, layer, world, still_base, tmp_path, monkeypatch
):
    """Tolerances as between any two orders of a float32 sum."""
    base = base_of(kind, still_base, tmp_path / "base")
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["--save_strategy", "steps", "--save_steps", 2, "--save_full_model"]
    run_here(monkeypatch, *one_step(base, world, one, batch=8), *more)
    result = run_sharded(*one_step(base, world, two, batch=4), *more)
    # each process: every layer is a unit, and the rest of the model
    assert result.stdout.count(f"sharded {layer}\n") == 2 * 2
    assert_close_weights(one, two)
    assert_close_weights(one / "checkpoint-2", two / "checkpoint-2")
    assert read_trained(one).description == read_trained(two).description
    history = [read_json(folder / "trainer_state.json")["log_history"][:3] for folder in (one, two)]
    for a, b in zip(*history):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    whole = [torch.load(folder / "pytorch_model.bin", weights_only=True) for folder in (one, two)]
    assert list(whole[0]) == list(whole[1])
    trained = read_trained(one).tensors
    assert all(torch.equal(value, whole[1][name]) for name, value in whole[0].items() if name not in trained)
    # a checkpoint holds what was trained, not the base: beside the complete model that was asked for
    assert sorted(path.name for path in (two / "checkpoint-2").glob("*.bin")) == [
        "optimizer.bin",
        "pytorch_model.bin",
        "pytorch_model_lora.bin",
    ]
    state = torch.load(two / "checkpoint-2/optimizer.bin", weights_only=True)
    assert set(state["param_groups"][0]["params"]) | set(state["param_groups"][1]["params"]) == set(trained)


@pytest.mark.slow
def test_a_sharded_run_goes_on_from_its_checkpoint_to_the_very_same_weights(world, tmp_path):
    """With dropout and AdamW: also the moments of the optimizer and the random states come back."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = [*lora_flags(), *train_flags(epochs=2), "--do_eval", "--save_strategy", "steps", "--save_steps", 8]
    flags += ["--evaluation_strategy", "steps", "--eval_steps", 8]
    run_sharded(*world.flags(whole), *flags)
    (cut / "checkpoint-8").parent.mkdir()
    shutil.copytree(whole / "checkpoint-8", cut / "checkpoint-8")
    result = run_sharded(*world.flags(cut), *flags)
    assert "going on from" in result.stderr
    assert_same_weights(whole, cut)
    assert read_json(whole / "eval_results.json")["eval_loss"] == read_json(cut / "eval_results.json")["eval_loss"]


@pytest.mark.slow
def test_what_a_sharded_run_saved_starts_another_and_is_evaluated_without_shards(world, tmp_path, monkeypatch):
    out, again = tmp_path / "out", tmp_path / "again"
    best = ["--load_best_model_at_end", "--metric_for_best_model", "eval_matthews_correlation"]
    each = ["--save_strategy", "epoch", "--evaluation_strategy", "epoch"]
    run_sharded(*world.flags(out), *lora_flags(), *train_flags(epochs=3), "--do_eval", *each, *best)
    scores = read_json(out / "eval_results.json")
    assert scores["eval_matthews_correlation"] == read_json(out / "trainer_state.json")["best_metric"]
    start = ["--apply_lora", "--lora_path", out]
    run_here(monkeypatch, *world.flags(again), *start, "--do_eval", "--export_merged", tmp_path / "merged")
    assert read_json(again / "eval_results.json")["eval_matthews_correlation"] == scores["eval_matthews_correlation"]
    run_sharded(*world.flags(tmp_path / "on"), *start, *train_flags(epochs=1, lr=0.0))
    assert_same_weights(out, tmp_path / "on")


@pytest.mark.slow
def test_a_checkpoint_goes_on_only_the_way_it_was_saved(world, tmp_path, monkeypatch):
    out, flags = tmp_path / "out", [*lora_flags(), *train_flags(epochs=2), "--save_strategy", "epoch"]
    run_here(monkeypatch, *world.flags(out), *flags)
    flags += ["--per_device_train_batch_size", 4]  # of two processes: the same batch
    result = run(PROGRAM, *world.flags(out), *flags, *FSDP, processes=2, program=ON_CPU, check=False)
    flags = flags[:-2]
    assert result.returncode != 0
    assert result.stderr.count("error: ") == 1 and "was saved without --fsdp and goes on only that way" in result.stderr
    for checkpoint in out.glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    with pytest.raises(UserError, match="was saved with --fsdp and goes on only that way"):
        run_here(monkeypatch, *world.flags(out), *flags)


@pytest.mark.slow
def test_full_fine_tuning_is_sharded_too(world, tmp_path, monkeypatch):
    run_sharded(*world.flags(tmp_path / "out"), *train_flags(epochs=1, lr=1e-3), "--do_eval")
    flags = ["--model_name_or_path", tmp_path / "out", "--do_eval"]
    run_here(monkeypatch, *world.flags(tmp_path / "again"), *flags)
    key = "eval_matthews_correlation"
    assert read_json(tmp_path / "out/eval_results.json")[key] == read_json(tmp_path / "again/eval_results.json")[key]


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="accelerate shards on this machine")
def test_sharding_without_accelerators_is_refused_in_one_line(world, tmp_path):
    flags = [*world.flags(tmp_path / "out"), *lora_flags(), "--do_train", *FSDP]
    result = run(*flags, processes=2, check=False)
    assert result.returncode != 0
    assert result.stderr.count("error: --fsdp: accelerate shards on accelerators alone; on CPUs leave it out") == 1


@pytest.mark.parametrize(
    ("mode", "flags", "message"),
    [
        (ParallelMode.NOT_PARALLEL, ["--do_train"], "start them with torchrun"),
        (ParallelMode.DISTRIBUTED, ["--do_eval"], "--fsdp is for training"),
        (ParallelMode.DISTRIBUTED, ["--do_train", "--export_merged", "m"], "run again with --do_eval --lora_path"),
    ],
)
def test_what_fsdp_cannot_do_is_said(mode, flags, message, world, tmp_path, monkeypatch):
    monkeypatch.setattr(GlueTrainingArguments, "parallel_mode", mode)
    with pytest.raises(UserError, match=message):
        parse([str(word) for word in (*world.flags(tmp_path), *lora_flags(), *flags, *FSDP)])
