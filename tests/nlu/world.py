"""A small world for the NLU tests: tiny models, a tokenizer made on the spot, sentences that can be learned."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import run_glue
import torch
from glue.checkpoint import read_trained
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.shared_data import GOLDEN, REPOSITORY
from tests.warm_python import PYTHON

PROGRAM = REPOSITORY / "examples/NLU/examples/text-classification/run_glue.py"
RECORDED = json.loads((GOLDEN / "nlu/nlu_fork_tiny.json").read_text(encoding="utf-8"))
TENSORS = load_file(GOLDEN / "nlu/nlu_fork_tiny.safetensors")

NOUNS = ("cat", "dog", "bird", "child", "teacher", "river", "house", "tree")
GOOD = ("lovely", "great", "warm", "bright")
BAD = ("awful", "poor", "cold", "dull")


def recorded_roberta(**changes) -> RobertaForSequenceClassification:
    """The tiny RoBERTa whose numbers were recorded, with random weights."""
    return RobertaForSequenceClassification(RobertaConfig(**{**RECORDED["roberta_config"], **changes}))


def recorded_deberta(**changes) -> DebertaV2ForSequenceClassification:
    """The tiny DeBERTa-v2 whose numbers were recorded, with random weights."""
    return DebertaV2ForSequenceClassification(DebertaV2Config(**{**RECORDED["deberta_config"], **changes}))


def tiny_gpt2(**changes) -> GPT2ForSequenceClassification:
    """A GPT-2 of two layers."""
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "num_labels": 3}
    return GPT2ForSequenceClassification(GPT2Config(**{**sizes, "pad_token_id": 0, **changes}))


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences whose adjective decides the label: 1 for a good one."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randint(0, 1)
        extra = " and the ".join(draw.sample(NOUNS, draw.randint(1, 3)))
        rows.append((f"the {extra} was {draw.choice(GOOD if label else BAD)}", label))
    return rows


def write_cola(folder: Path, rows: dict[str, list[tuple[str, int]]]) -> Path:
    """Writes ``CoLA/{train,dev}.tsv`` in the official layout. Returns the GLUE root."""
    (folder / "CoLA").mkdir(parents=True, exist_ok=True)
    for split, table in rows.items():
        text = "".join(f"gj04\t{label}\t\t{sentence}\n" for sentence, label in table)
        (folder / "CoLA" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def make_tokenizer(texts: list[str], vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """Byte-pair encoding learned from ``texts``, with RoBERTa's special tokens and ids."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_base(folder: Path, texts: list[str], *, seed: int = 3, **changes) -> Path:
    """A base model with tokenizer in ``folder``, for ``--model_name_or_path``: RoBERTa without a trained head."""
    tokenizer = make_tokenizer(texts)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 42,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "type_vocab_size": 1,
        "initializer_range": 0.2,  # a random base must do something that an update can use
    }
    torch.manual_seed(seed)
    model = RobertaForSequenceClassification(RobertaConfig(**{**sizes, **changes}))
    model.roberta.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(
    *flags: object,
    processes: int = 1,
    check: bool = True,
    env: dict[str, str] | None = None,
    program: Path = PROGRAM,
):
    """Runs ``run_glue.py`` as a user would, offline and on one thread."""
    launcher = [PYTHON]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": PYTHON,  # of the workers of torchrun
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **(env or {}),
    }
    result = subprocess.run(
        [*launcher, str(program), *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def run_here(monkeypatch, *flags: object) -> None:
    """Runs ``main()`` of ``run_glue.py`` in this process, which spares the imports; errors come as exceptions."""
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), *map(str, flags)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run_glue.main()


def read_json(path: Path):
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def lora_flags(r: int = 4, alpha: int = 8) -> list[object]:
    """LoRA as most tests want it."""
    return ["--apply_lora", "--lora_r", r, "--lora_alpha", alpha]


def train_flags(epochs: float = 2, batch: int = 8, lr: float = 1e-2) -> list[object]:
    """A short training."""
    return [
        *("--do_train", "--num_train_epochs", epochs, "--per_device_train_batch_size", batch),
        *("--learning_rate", lr, "--seed", 0, "--save_strategy", "no", "--disable_tqdm", "true"),
    ]


def one_step(base, world, out, batch: int, accumulation: int = 1) -> list[object]:
    """Flags of three plain gradient steps, unclipped, so that the weights show the gradient."""
    return [
        *(*world.flags(out), "--model_name_or_path", base, *lora_flags(), "--apply_bitfit", *train_flags(batch=batch)),
        *("--gradient_accumulation_steps", accumulation, "--optim", "sgd", "--max_grad_norm", 0, "--max_steps", 3),
        *("--learning_rate", 0.1, "--lr_scheduler_type", "constant", "--logging_steps", 1),
    ]


def assert_close_weights(a: Path, b: Path) -> None:
    """The same names in both folders' files, with values that differ by rounding at most."""
    mine, theirs = read_trained(a).tensors, read_trained(b).tensors
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=0.0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same_weights(a: Path, b: Path) -> None:
    """The same names in both folders' files, with the same bits."""
    mine, theirs = read_trained(a).tensors, read_trained(b).tensors
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
