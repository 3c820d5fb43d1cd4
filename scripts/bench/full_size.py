"""What the paper's runs cost at full size: an estimate from counted FLOPs and counted bytes, nothing is trained.

A row is computed, forward and backward, by transformers' model of the same width, two and three blocks deep, weights
random, at the mean length of the longest row of the recipe's batches. FLOPs and bytes kept for the backward pass are
linear in the depth, so the full depth follows; our own GPT-2 takes fewer of both. Left out: evaluation and decoding.

    python scripts/bench/full_size.py [--tflops 10]
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import torch
from harness.costs import counted_flops, saved_bytes
from torch import nn

import loralib
from examples.common.errors import run_main

ROWS = {  # of the official training sets
    **{"e2e": 42_061, "webnlg": 18_025, "dart": 62_659, "mnli": 392_702, "sst2": 67_349, "mrpc": 3_668},
    **{"cola": 8_551, "qnli": 104_743, "qqp": 363_846, "rte": 2_490, "stsb": 5_749},
}
# Mean over random batches of the longest row in tokens of GPT-2's vocabulary, which is RoBERTa's too; by batch size.
# QNLI, MNLI and QQP: of samples of 8,999 rows; DART: of 51,584 rows.
LONGEST = {
    "e2e": {8: 73},
    "webnlg": {8: 143},
    "dart": {8: 108},
    "mnli": {4: 60, 8: 69, 16: 79, 32: 92},
    "sst2": {4: 24, 8: 30, 16: 36, 32: 41},
    "mrpc": {4: 67, 8: 72, 16: 77, 32: 80},
    "cola": {4: 16, 8: 18, 16: 20, 32: 23},
    "qnli": {4: 66, 8: 76, 16: 88, 32: 103},
    "qqp": {4: 44, 8: 52, 16: 60, 32: 69},
    "rte": {4: 117, 8: 142, 16: 164, 32: 182},
    "stsb": {4: 46, 8: 56, 16: 64, 32: 72},
}
GIB, CONTEXT = 2**30, 2**29  # bytes; what CUDA itself takes, about


@dataclass(frozen=True, eq=False)  # a key by identity
class Base:
    """A pretrained model: depth, a maker of the same model with another depth, LoRA's targets and rank."""

    name: str
    layers: int
    make: Callable[[int], nn.Module]
    lora: dict[str, Any]
    bytes_of_a_weight: int = 4  # in the published file


def bases() -> dict[str, Base]:
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    def gpt2(width: int, heads: int) -> Callable[[int], nn.Module]:
        return lambda n: GPT2LMHeadModel(GPT2Config(n_layer=n, n_embd=width, n_head=heads))

    def roberta(width: int, heads: int) -> Callable[[int], nn.Module]:
        config: dict[str, Any] = {
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "num_labels": 3,
        }
        config |= {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
        return lambda n: RobertaForSequenceClassification(RobertaConfig(num_hidden_layers=n, **config))

    def deberta(n: int) -> nn.Module:
        config: dict[str, Any] = {
            "vocab_size": 128100,
            "hidden_size": 1536,
            "intermediate_size": 6144,
            "num_attention_heads": 24,
        }
        config |= {"max_position_embeddings": 512, "relative_attention": True, "position_buckets": 256, "num_labels": 3}
        config |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
        config |= {"position_biased_input": False, "type_vocab_size": 0, "conv_kernel_size": 3, "conv_act": "gelu"}
        return DebertaV2ForSequenceClassification(DebertaV2Config(num_hidden_layers=n, **config))

    fused: dict[str, Any] = {"targets": "attn.c_attn", "r": 4, "alpha": 32, "enable_lora": [True, False, True]}
    plain: dict[str, Any] = {"targets": ["query", "value"], "r": 8, "alpha": 16, "trainable": "classifier"}
    theirs: dict[str, Any] = {
        "targets": ["query_proj", "value_proj"],
        "r": 16,
        "alpha": 32,
        "trainable": ["classifier", "pooler"],
    }
    return {
        "gpt2.md": Base("GPT-2 M", 24, gpt2(1024, 16), fused),
        "gpt2.lg": Base("GPT-2 L", 36, gpt2(1280, 20), fused),
        "roberta_base": Base("RoBERTa base", 12, roberta(768, 12), plain),
        "roberta_large": Base("RoBERTa large", 24, roberta(1024, 16), plain),
        "deberta_v2_xxlarge": Base("DeBERTa XXL", 48, deberta, theirs, bytes_of_a_weight=2),
    }


@dataclass(frozen=True)
class Job:
    """A row of a recipe: task, rows in a device's batch, epochs, longest row allowed."""

    task: str
    batch: int
    epochs: int
    length: int  # of GPT-2's data: nearly the longest row of all

    @property
    def longest(self) -> int:
        """Mean length of a batch's longest row."""
        by_batch = LONGEST[self.task]
        return min(self.length, by_batch[min(by_batch, key=lambda size: abs(size - self.batch))])


def jobs(model: str) -> list[Job]:
    """The rows of the recipe `scripts` for a model."""
    folder = harness.REPOSITORY / "examples" / ("NLG" if model.startswith("gpt2") else "NLU")
    with open(folder / "hparams.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["recipe"] == "scripts"]
    if model.startswith("gpt2"):
        return [Job(r["dataset"], int(r["train_batch_size"]), int(r["max_epoch"]), 260) for r in rows]
    return [
        Job(r["task_name"], int(r["per_device_train_batch_size"]), int(r["num_train_epochs"]), int(r["max_seq_length"]))
        for r in rows
        if r["script"] == f"{model}_{r['task_name']}"
    ]


def at_full_depth(at: Callable[[int], float], layers: int) -> float:
    """The value at full depth of what is linear in the depth, from two shallow models."""
    two, three = at(2), at(3)
    return two + (layers - 2) * (three - two)


@functools.cache
def adapted(base: Base, layers: int) -> nn.Module:
    model = base.make(layers).train()
    loralib.apply_lora(model, **base.lora)
    return model


def loss_of_a_row(base: Base, layers: int, length: int) -> torch.Tensor:
    ids = torch.randint(1, 1000, (1, length))
    labels = ids if base.name.startswith("GPT-2") else torch.zeros(1, dtype=torch.int64)
    return adapted(base, layers)(input_ids=ids, labels=labels).loss


def flops_of_a_row(base: Base, length: int) -> float:
    """FLOPs of forward and backward pass."""
    return at_full_depth(
        lambda layers: counted_flops(lambda: loss_of_a_row(base, layers, length).backward()), base.layers
    )


def kept_of_a_row(base: Base, length: int) -> float:
    """Bytes that autograd keeps for each row."""

    def at(layers: int) -> float:
        known = [*adapted(base, layers).parameters(), *adapted(base, layers).buffers()]
        return saved_bytes(lambda: loss_of_a_row(base, layers, length), known)

    return at_full_depth(at, base.layers)


def parameters(base: Base) -> float:
    return at_full_depth(lambda layers: sum(p.numel() for p in adapted(base, layers).parameters()), base.layers)


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=10, help="what a GPU really reaches (default: 10 TFLOP/s)")
    parser.add_argument("--models", nargs="+", choices=list(bases()), default=list(bases()))
    return parser


def main() -> None:
    """Prints a Markdown table, one row for each model."""
    args = build_parser().parse_args()
    torch.manual_seed(0)
    rate = args.tflops * 1e12
    print("| model | tasks | EFLOP a seed | GPU hours a seed | of them | GPU memory | download |")
    print("|---|---|---:|---:|---|---:|---:|")
    known = bases()
    for key in args.models:
        base = known[key]
        work = {}
        for job in jobs(key):
            work[job.task] = ROWS[job.task] * job.epochs * flops_of_a_row(base, job.longest)
        weights = parameters(base)
        most = max(jobs(key), key=lambda job: job.batch * job.length)
        memory = 4 * weights + most.batch * kept_of_a_row(base, most.length) + CONTEXT
        hours = {task: flops / rate / 3600 for task, flops in work.items()}
        listed = ", ".join(f"{task} {value:.2g}" for task, value in hours.items())
        adapted.cache_clear()
        total = f"{sum(work.values()) / 1e18:.2g} | {math.ceil(sum(hours.values()))}"
        size = f"{base.bytes_of_a_weight * weights / 1e9:.2g} GB"
        print(f"| {base.name} | {len(work)} | {total} | {listed} | {memory / GIB:.0f} GiB | {size} |", flush=True)


if __name__ == "__main__":
    run_main(main)
