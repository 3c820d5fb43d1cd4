"""From the flags of ``gpt2_beam.py`` to a model, distinct prompts, and their continuations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from gpt2.checkpoint import load_into, recorded_lora
from gpt2.config import GPT2Config, LoRAConfig, load_model_card
from gpt2.model import GPT2LMModel
from gpt2.weights import CheckpointFile, read_checkpoint
from tqdm import tqdm
from train.data import FT_Dataset
from train.distributed import Process
from train.sampler import global_batches

from examples.common.errors import UserError
from generation.search import BeamSettings, Search
from generation.state import NoContinuation

DEFAULT_ALPHA = 128  # of the released code
PROGRESS_INTERVAL = 10  # batches between two printed lines, as released


def beam_settings(args: argparse.Namespace) -> BeamSettings:
    """The search that the flags ask for.

    Raises:
        UserError: a value that cannot be searched with.
    """
    try:
        return BeamSettings(
            beam=args.beam,
            eval_len=args.eval_len,
            length_penalty=args.length_penalty,
            no_repeat_ngram_size=args.no_repeat_ngram_size,
            repetition_penalty=args.repetition_penalty,
            min_length=args.min_length,
            eos_token_ids=tuple(args.eos_token_id),
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None  # the message starts with the name of the setting


def resolve_lora(args: argparse.Namespace, file: CheckpointFile) -> LoRAConfig:
    """Rank and alpha: as the flags say where given, else as the checkpoint does.

    A contradiction between the two is found by ``checkpoint.load_into``.

    Raises:
        UserError: neither the flag nor the checkpoint says what alpha is.
    """
    known = recorded_lora(file, LoRAConfig(alpha=DEFAULT_ALPHA))
    if args.lora_dim is not None:
        known = replace(known, r=args.lora_dim)
    if args.lora_alpha is not None:
        known = replace(known, alpha=args.lora_alpha)
    elif known.r > 0 and "alpha" not in (file.record or {}):
        raise UserError(
            f"{file.path} does not record the alpha that its LoRA was trained with; pass --lora_alpha "
            "(the released adapters used 32)"
        )
    if known.r < 0:
        raise UserError(f"--lora_dim must not be negative, got {known.r}")
    return replace(known, dropout=0.0, init="released")  # neither plays a part in decoding


@dataclass(frozen=True)
class Loaded:
    """A model and the sha256 of the file that its frozen weights came from."""

    model: GPT2LMModel
    base_sha256: str


def open_checkpoint(args: argparse.Namespace) -> CheckpointFile:
    """Reads ``--init_checkpoint``, without which there is nothing to decode with."""
    if args.init_checkpoint is None:
        raise UserError("--init_checkpoint is missing: pass the weights to decode with")
    return read_checkpoint(args.init_checkpoint)


def load_model(args: argparse.Namespace, file: CheckpointFile, lora_config: LoRAConfig, process: Process) -> Loaded:
    """Model on the device of the process, ready to decode."""
    model = GPT2LMModel(load_model_card(args.model_card), lora_config)
    print("loading model pretrained weight.", flush=True)
    base = load_into(model, file, args.base_checkpoint, require_lora=lora_config.r > 0)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    return Loaded(model.to(process.device, dtype).eval(), base.sha256)


@dataclass(frozen=True)
class PromptRows:
    """Prompts of a file: ``rows[i]`` are the rows that share the i-th distinct prompt, ``prompts[i]``.

    The first of its rows stands for a prompt in partial results.
    """

    prompts: list[tuple[int, ...]]
    rows: list[list[int]]

    @property
    def n_rows(self) -> int:
        return sum(map(len, self.rows))


def read_prompts(args: argparse.Namespace, config: GPT2Config, settings: BeamSettings, process: Process) -> PromptRows:
    """Distinct prompts of ``--data`` in order of first appearance, their beginning cut off where too long.

    Raises:
        UserError: an unusable file, an empty prompt, or sizes that the model does not have.
    """
    data = FT_Dataset(
        args.data,
        args.batch_size,
        args.seq_len,
        args.eval_len,
        vocab_size=config.vocab_size,
        quiet=not process.is_first,
    )
    rows: dict[tuple[int, ...], list[int]] = {}
    for row in range(data.n_rows):
        prompt = tuple(data.query(row))
        if not prompt:
            raise UserError(f"{args.data} line {row + 1}: the context is empty, there is nothing to continue")
        rows.setdefault(prompt, []).append(row)
    try:
        settings.check_fits(config, max(map(len, rows)))
    except ValueError as error:
        raise UserError(f"{args.model_card}: {error}") from None
    return PromptRows(list(rows), list(rows.values()))


def what_results_depend_on(
    args: argparse.Namespace, settings: BeamSettings, loaded: Loaded, sha256: dict[str, str]
) -> dict[str, object]:
    """JSON values that decide the predictions; the size of the batches is not among them."""
    return {
        "settings": asdict(settings),
        "seq_len": args.seq_len,
        "bf16": args.bf16,
        "model": asdict(loaded.model.config),
        "lora": loaded.model.lora_config.as_dict(),
        "files": {**sha256, "base": loaded.base_sha256},
    }


def decode(
    model: GPT2LMModel,
    prompts: dict[tuple[int, ...], int],
    settings: BeamSettings,
    batch_size: int,
    process: Process,
    *,
    static: bool = False,
) -> Iterator[dict[int, list[int]]]:
    """Continues this process's share of the prompts, ``batch_size`` of them together.

    Args:
        prompts: to the row that stands for each.
        static: see ``Search``.

    Yields:
        Tokens by row, of each prompt as soon as it is finished.

    Raises:
        UserError: a prompt has no continuation, see ``NoContinuation``.
    """
    share = sorted(prompts, key=len, reverse=True)[process.rank :: process.world]
    quiet = not (process.is_first and sys.stderr.isatty())
    search = Search(model, share, settings, batch_size=batch_size, static=static)
    try:
        for done, (number, hypothesis) in enumerate(tqdm(search, total=len(share), disable=quiet, unit="prompt")):
            if process.is_first and done % (PROGRESS_INTERVAL * batch_size) == 0:
                print(f"inference samples {done // batch_size}", flush=True)
            yield {prompts[share[number]]: hypothesis.tokens}
    except NoContinuation as error:
        raise UserError(str(error)) from None


def output_order(name: str, n_rows: int) -> list[int]:
    """Rows in the order of the output's lines: ``id``, or ``original``, as the released program shuffles them."""
    if name == "id":
        return list(range(n_rows))
    return [row for batch in global_batches(n_rows, 1, seed=0, epoch=0, fillers=False) for row in batch]
