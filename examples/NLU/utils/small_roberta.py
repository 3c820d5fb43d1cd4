"""A small RoBERTa: byte-level BPE from texts, random weights, masked-language modelling."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import torch
from texts import Text
from tokenizers import ByteLevelBPETokenizer, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
MASKED = 0.3  # of the tokens; RoBERTa's 0.15 teaches half as much a step, and a small model sees few steps
POOL = 64  # batches that are drawn together and sorted by length, so that a batch needs little padding
IGNORED = -100
PAD, MASK = (list(SPECIAL).index(name) for name in ("pad_token", "mask_token"))
# lengths are rounded up to these: buffers of ever new sizes would fragment the memory of a CPU by gigabytes
ROUND_LENGTH, ROUND_CHOSEN = 16, 512


def train_tokenizer(texts: Sequence[Text], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special tokens, at their ids, and its joining of two sentences."""
    bpe = ByteLevelBPETokenizer()
    special = list(SPECIAL.values())
    sentences = (sentence for text in texts for sentence in text)
    bpe.train_from_iterator(sentences, vocab_size=vocab_size, special_tokens=special, show_progress=False)
    bpe._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    )


def build_model(vocab_size: int, *, layers: int, width: int, heads: int, max_length: int) -> RobertaForMaskedLM:
    """Random weights. Feed-forward of four times ``width``, dropout 0.1 in fine-tuning, as the published models."""
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=max_length + 2,  # RoBERTa counts positions from its padding id on
            type_vocab_size=1,
        )
    )


def tokenize(texts: Sequence[Text], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[list[int]]:
    """Token ids of each text, two sentences joined as fine-tuning joins them, so that one is read beside the other."""
    rows: list[list[int]] = []
    for text in texts:
        rows.append(tokenizer(*text, truncation=True, max_length=max_length)["input_ids"])
    return rows


def batches(rows: Sequence[Sequence[int]], size: int, draw: random.Random) -> Iterator[list[Sequence[int]]]:
    """Batches without end, all rows once an epoch, rows of like length together."""
    order = list(range(len(rows)))
    while True:
        draw.shuffle(order)
        for start in range(0, len(order), POOL * size):
            pool = sorted(order[start : start + POOL * size], key=lambda index: len(rows[index]))
            cut = [pool[at : at + size] for at in range(0, len(pool), size)]
            draw.shuffle(cut)
            yield from ([rows[index] for index in batch] for batch in cut)


def mask_tokens(ids: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """(input ids, labels), both (B, T): chosen tokens become <mask> (80 %), any token (10 %) or stay.

    Source: Devlin et al. 2019 (arXiv:1810.04805), Section 3.1. Labels are ``IGNORED`` where nothing was chosen.
    """
    chance = torch.rand(ids.shape)
    chosen = (chance < MASKED) & (ids >= len(SPECIAL))
    labels = ids.masked_fill(~chosen, IGNORED)
    masked = ids.masked_fill(chosen & (chance < 0.8 * MASKED), MASK)
    anything = torch.randint(len(SPECIAL), vocab_size, ids.shape)
    return torch.where(chosen & (chance >= 0.9 * MASKED), anything, masked), labels


def pad(rows: Sequence[Sequence[int]], most: int) -> Tensor:
    """(B, T) ids, T a multiple of ``ROUND_LENGTH`` or ``most``, which no row exceeds."""
    length = min(most, ROUND_LENGTH * math.ceil(max(map(len, rows)) / ROUND_LENGTH))
    return torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows])


def chosen_positions(labels: Tensor) -> Tensor:
    """(N,) positions in the flattened labels that count; filled up to a multiple of ``ROUND_CHOSEN`` with position 0.

    That is ``<s>``, whose label never counts.
    """
    flat = labels.flatten()
    chosen = flat.ne(IGNORED).nonzero().squeeze(1)
    missing = -len(chosen) % ROUND_CHOSEN
    return torch.cat([chosen, chosen.new_zeros(missing)])


def pretrain(
    model: RobertaForMaskedLM, rows: Sequence[Sequence[int]], *, steps: int, batch_size: int, lr: float, seed: int
) -> None:
    """Masked-language modelling in float32 on the model's device, in place; learning rate warms up over a tenth.

    Without dropout: the few passes that a small run makes do not overfit. Logits are computed of chosen tokens alone.
    """
    model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warmup, (steps - done) / max(1, steps - warmup))
    )
    most = model.config.max_position_embeddings - 2
    source = batches(rows, batch_size, random.Random(seed))
    mean = 0.0
    with tqdm(total=steps, unit="step", disable=None) as progress:
        for step in range(1, steps + 1):
            masked = mask_tokens(pad(next(source), most), model.config.vocab_size)
            inputs, labels = (part.to(model.device) for part in masked)
            hidden = model.roberta(inputs, attention_mask=inputs.ne(PAD).long()).last_hidden_state
            chosen = chosen_positions(labels)
            logits = model.lm_head(hidden.flatten(0, 1)[chosen])  # (chosen tokens, V)
            total = cross_entropy(logits, labels.flatten()[chosen], ignore_index=IGNORED, reduction="sum")
            loss = total / max(1, int(labels.ne(IGNORED).sum()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            mean += (loss.item() - mean) / min(step, 100)
            progress.set_postfix(loss=f"{mean:.3f}", refresh=False)
            progress.update()
            if step % 500 == 0 or step == steps:
                tqdm.write(f"step {step} of {steps}: loss {mean:.3f} nats per masked token")
