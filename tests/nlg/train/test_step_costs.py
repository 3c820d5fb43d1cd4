"""What a training step computes and keeps, counted: FLOPs by a formula, saved bytes by a stated multiple."""

import pytest
import torch
from gpt2.config import GPT2Config
from harness.costs import counted_flops, saved_bytes
from harness.train_sides import bound, ours, peft_like, step_flops, their_batch
from train.data import Batch, FT_Dataset

from tests.nlg.train.helpers import TINY_TRAIN

CONFIG = GPT2Config(vocab_size=101, n_positions=64, n_embd=64, n_layer=4, n_head=4)
B, T = 3, 20


def batch(n_counted=25):
    draw = torch.Generator().manual_seed(0)
    mask = torch.zeros(B * T)
    mask[torch.randperm(B * T, generator=draw)[:n_counted]] = 1.0
    ids = torch.randint(101, (B, T + 1), generator=draw)
    return Batch(list(range(B)), ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mask.view(B, T))


@pytest.mark.parametrize("r", [1, 4])
@pytest.mark.parametrize("n_counted", [0, 1, 25, B * T])
def test_flops_of_a_step_are_those_of_the_formula(n_counted, r):
    side, given = ours(CONFIG, r, device="cpu"), batch(n_counted)
    assert counted_flops(lambda: side.step(given)) == step_flops(CONFIG, B, T, n_counted, r=r)


def test_a_step_costs_hardly_more_than_the_bound_and_full_fine_tuning_half_more():
    side, full = ours(CONFIG, 1, device="cpu"), ours(CONFIG, 0, device="cpu")
    limit = bound(side.model)
    flops = [counted_flops(lambda s=each: s.step(batch())) for each in (limit, side, full)]
    assert flops[1] <= 1.01 * flops[0]  # the bound has the gradient of the first input, ours the low-rank updates
    assert flops[2] == 1.5 * flops[0]  # the gradients of the weights


def test_the_bound_computes_the_loss_of_the_model_without_its_updates():
    side = ours(CONFIG, 4, device="cpu")
    limit = bound(side.model)
    for layer in side.model.lora_layers():
        torch.nn.init.zeros_(layer.lora_B)
    torch.testing.assert_close(limit.loss(batch()), side.loss(batch()).detach(), check_stride=False)


def test_transformers_and_peft_compute_our_loss_from_their_batches():
    data = FT_Dataset(TINY_TRAIN, 4, 64, quiet=True)
    side = ours(CONFIG, 4, device="cpu")
    peer = peft_like(side.model, 4, device="cpu")
    rows = [0, 5, 7, 3]
    for length in (None, 40):
        loss = peer.loss(their_batch(data, rows, length))
        assert loss.item() == pytest.approx(side.loss(data.batch(rows)).item(), rel=1e-5)


def kept(checkpointing=False, r=1):
    side = ours(CONFIG, r, device="cpu", checkpointing=checkpointing)
    given = batch()
    return saved_bytes(lambda: side.loss(given), [*side.known(), given.input, given.target, given.mask])


def test_a_block_keeps_at_most_eleven_and_a_half_activations():
    # of (B, T, C): inputs of both layer norms and of LoRA, query, key, value, output of attention, 4 for GELU; beside
    # them the statistics of layer norm and attention. Frozen projections keep nothing, the loss (n, C).
    activation = B * T * CONFIG.n_embd * 4
    assert kept() <= 11.5 * CONFIG.n_layer * activation


def test_checkpointing_keeps_one_activation_a_block():
    activation = B * T * CONFIG.n_embd * 4
    assert kept(checkpointing=True) <= (CONFIG.n_layer + 1.5) * activation
