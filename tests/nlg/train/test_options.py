"""Options of training: batches of near length, checkpointing, compiled blocks."""

import json

import gpt2_ft
import pytest
import torch
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from train.data import FT_Dataset
from train.sampler import bucketed_batches, global_batches, shard

import loralib as lora
from tests.nlg.train.helpers import TINY_TRAIN, run_program, tensors_of, tiny_flags, torchrun
from tests.nlg.train.test_processes import assert_equal_runs
from tests.nlg.train.test_resume import HARD, assert_same_end, stop_at

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=60)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 6), epoch=st.integers(1, 4), window=st.integers(1, 5))
def test_bucketed_batches_hold_the_rows_of_the_released_ones(lengths, size, epoch, window):
    batches = bucketed_batches(lengths, size, seed=3, epoch=epoch, window=window)
    released = global_batches(len(lengths), size, seed=3, epoch=epoch)
    assert [len(batch) for batch in batches] == [size] * len(released)
    # every row once, and the same filler rows
    assert sorted(row for batch in batches for row in batch) == sorted(row for batch in released for row in batch)
    assert batches == bucketed_batches(lengths, size, seed=3, epoch=epoch, window=window)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 3), world=st.integers(1, 4), epoch=st.integers(1, 4))
def test_processes_share_the_bucketed_batches_of_one(lengths, size, world, epoch):
    batches = bucketed_batches(lengths, size * world, seed=3, epoch=epoch)
    parts = [[shard(batch, rank, world) for batch in batches] for rank in range(world)]
    for number, batch in enumerate(batches):
        assert sorted(row for part in parts for row in part[number]) == sorted(batch)
        assert {len(part[number]) for part in parts} == {size}


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 6))
def test_bucketed_batches_are_never_padded_more_than_the_released_ones(lengths, size):
    def positions(batches):
        return sum(max(lengths[row] for row in batch) for batch in batches)

    assert positions(bucketed_batches(lengths, size, seed=1, epoch=1)) <= positions(
        global_batches(len(lengths), size, seed=1, epoch=1)
    )


def test_bucketed_epochs_and_seeds_differ_and_lengths_come_in_no_order():
    lengths = list(range(400))
    batches = {(s, e): bucketed_batches(lengths, 4, seed=s, epoch=e) for s, e in [(1, 1), (1, 2), (2, 1)]}
    assert len({str(found) for found in batches.values()}) == 3
    longest = [max(batch) for batch in batches[1, 1]]
    assert longest != sorted(longest) and all(max(batch) - min(batch) < 20 for batch in batches[1, 1])


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        bucketed_batches([1], 1, seed=1, epoch=1, window=0)


@pytest.mark.parametrize("joint_lm", [False, True])
def test_lengths_are_those_that_batches_are_padded_to(joint_lm):
    data = FT_Dataset(TINY_TRAIN, 1, 24, joint_lm=joint_lm)
    assert [max(1, n) for n in data.lengths] == [data.batch([row]).input.size(1) for row in range(data.n_rows)]


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_bucketed_run_is_resumed_exactly(folder, monkeypatch, step):
    flags = {**HARD, "bucket_by_length": True}
    gpt2_ft.main(tiny_flags(work_dir="whole", **flags))
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(SystemExit, match="130"):
            gpt2_ft.main(tiny_flags(work_dir="parts", **flags))
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags), "--resume"])
    assert_same_end(folder / "whole", folder / "parts")
    gpt2_ft.main(tiny_flags(work_dir="plain", **HARD))
    assert (folder / "plain" / "log.jsonl").read_text() != (folder / "whole" / "log.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_make_the_bucketed_run_of_one(folder):
    common = {"max_epoch": 3, "adam_epislon": 1e-3, "bucket_by_length": True, "gradient_checkpointing": True}
    done = run_program(folder, tiny_flags(work_dir="two", valid_batch_size=3, **common), torchrun(2))
    assert done.returncode == 0, done.stderr
    gpt2_ft.main(tiny_flags(work_dir="one", train_batch_size=10, valid_batch_size=6, **common))
    assert_equal_runs(folder / "one", folder / "two")


@pytest.mark.slow
@pytest.mark.parametrize("lora_dim", [4, 0])
def test_a_checkpointed_run_equals_the_plain_one_and_may_continue_it(folder, monkeypatch, lora_dim):
    flags = {**HARD, "lora_dim": lora_dim, "lora_dropout": 0.1 if lora_dim else 0.0}
    gpt2_ft.main(tiny_flags(work_dir="plain", **flags))
    gpt2_ft.main(tiny_flags(work_dir="again", gradient_checkpointing=True, **flags))
    assert_same_end(folder / "plain", folder / "again")
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SystemExit, match="130"):
            gpt2_ft.main(tiny_flags(work_dir="mixed", **flags))
    gpt2_ft.main([*tiny_flags(work_dir="mixed", gradient_checkpointing=True, **flags), "--resume"])
    assert_same_end(folder / "plain", folder / "mixed")


@pytest.mark.slow
def test_the_state_of_a_program_that_did_not_know_the_options_is_resumed(folder, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SystemExit, match="130"):
            gpt2_ft.main(tiny_flags(work_dir="w", **HARD))
    path = folder / "w" / "training_state.pt"
    state = torch.load(path, weights_only=True)
    for flag in ("--bucket_by_length", "--compile"):
        assert state["identity"].pop(flag) is False
    torch.save(state, path)
    gpt2_ft.main([*tiny_flags(work_dir="w", **HARD), "--resume"])
    assert json.loads((folder / "w" / "metrics.json").read_text())["finished"]


def toy(r, dropout=0.1):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=101, n_positions=64, n_embd=32, n_layer=5, n_head=4)
    model = GPT2LMModel(config, LoRAConfig(r=r, alpha=8, dropout=dropout if r else 0.0)).train()
    if r:
        lora.mark_only_lora_as_trainable(model)
        for layer in model.lora_layers():
            torch.nn.init.normal_(layer.lora_B, std=0.1)
    return model


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("r", [4, 0])
def test_checkpointing_gives_the_same_gradients_bit_for_bit(r, dtype):
    ids, mask = torch.randint(101, (3, 20)), (torch.rand(3, 20) < 0.5).float()
    grads = []
    for checkpointing in (False, True):
        model = toy(r)
        model.transformer.gradient_checkpointing = checkpointing
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = model.loss(ids, ids, mask, 0.1)
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("r", [4, 0])
def test_compiled_blocks_give_the_same_loss_and_are_not_compiled_anew_for_other_lengths(r):
    torch._dynamo.reset()
    plain, compiled = toy(r, dropout=0.0), toy(r, dropout=0.0)
    names = list(compiled.state_dict())
    compiled.transformer.compile_blocks(backend="aot_eager")
    counters.clear()
    graphs = []
    for T in (10, 17, 33, 12, 64, 5):
        ids, mask = torch.randint(101, (3, T)), torch.ones(3, T)
        losses = [model.loss(ids, ids, mask, 0.1) for model in (plain, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        grads = [
            torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
            for loss, model in zip(losses, (plain, compiled))
        ]
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    # the first block where its input has no gradient, and the others
    assert graphs == [2 if r else 1] * 6
    assert list(compiled.state_dict()) == names
    torch._dynamo.reset()


@pytest.mark.slow
def test_the_program_trains_with_compiled_blocks(folder):
    gpt2_ft.main(tiny_flags(work_dir="plain", max_step=6))
    done = run_program(folder, tiny_flags(work_dir="compiled", max_step=6, compile=True))
    assert done.returncode == 0, done.stderr
    a, b = (tensors_of(folder / run / "model.6.pt") for run in ("plain", "compiled"))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)
