"""Continues prompts with GPT-2, with or without LoRA, by beam search.

Writes ``--output_file`` in ``--work_dir``: one line ``{"id": row, "predict": [eval_len token ids]}`` for each row of
``--data``, filled up with id 0. Beside it a record, ``<output_file>.run.json``, and while it runs
``<output_file>.partial``, from which the same command goes on after an interruption. Ends with 0 after a whole run, 2
after a mistake, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from gpt2.config import load_model_card
from train.flags import add_platform_flags, parse, print_args

from examples.common.errors import run_main
from examples.common.files import make_folder, refuse_overwriting
from examples.common.help import HelpFormatter

if TYPE_CHECKING:  # torch takes a second to import, which --help and a mistaken flag need not wait for
    from generation.run import PromptRows
    from train.distributed import Process


EOS = 50256  # <|endoftext|>; always ends a hypothesis, --eos_token_id adds to it, as released
INPUTS = ("data", "init_checkpoint", "base_checkpoint")


def build_parser() -> argparse.ArgumentParser:
    """Flags of the released ``gpt2_beam.py`` in its order, and new ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], formatter_class=HelpFormatter)
    add_platform_flags(parser.add_argument_group("processes and seed"))  # type: ignore[arg-type]
    add = parser.add_argument_group("input").add_argument
    add(
        "--data", default="../data/wikitext-103", help="token ids as gpt2_encode.py writes them; completions are unread"
    )
    add("--batch_size", type=int, default=10, help="prompts searched together; changes rounding only (default: 10)")
    add("--seq_len", type=int, default=512, help="a prompt keeps its last seq_len - eval_len ids (default: 512)")
    add("--eval_len", type=int, default=256, help="most tokens to generate (default: 256)")
    add("--min_length", type=int, default=0, help="no end of text before that many tokens (default: 0)")
    add = parser.add_argument_group("model").add_argument
    add("--model_card", default="gpt2.sm", help="gpt2.sm, gpt2.md, gpt2.lg, or a JSON file (default: gpt2.sm)")
    add("--init_checkpoint", default=None, help="complete checkpoint, or one of LoRA only")
    add("--lora_dim", type=int, default=None, help="rank r (default: that of the checkpoint)")
    add("--lora_alpha", type=int, default=None, help="scaling is alpha / r (default: as the checkpoint records)")
    output = parser.add_argument_group("output").add_argument
    output("--work_dir", default=os.getenv("PT_OUTPUT_DIR", "gpt2_model"), help="output folder (default: gpt2_model)")
    add = parser.add_argument_group("search").add_argument
    add("--beam", type=int, default=1, help="hypotheses kept for each prompt (default: 1)")
    add("--length_penalty", type=float, default=1.0, help="exponent of the length; larger: longer text (default: 1)")
    add("--no_repeat_ngram_size", type=int, default=4, help="no n-gram twice in a text; 0: any (default: 4)")
    add("--repetition_penalty", type=float, default=1.0, help="above 1: tokens are used less often again (default: 1)")
    add("--eos_token_id", action="append", type=int, default=[EOS], help="added to the default [50256]; repeatable")
    output("--output_file", default="beam_prediction.jsonl", help="in --work_dir (default: beam_prediction.jsonl)")
    add = parser.add_argument_group("not in the released code").add_argument
    add("--base_checkpoint", default=None, help="pretrained file under an --init_checkpoint of LoRA only")
    add("--bf16", action="store_true", help="bfloat16 weights: faster, and results differ")
    add("--cuda_graphs", action="store_true", help="each step is one CUDA graph (GPU; off: not yet run on one)")
    order = "of the lines: by id, or shuffled as the released program at batch size 1 (default: id)"
    add("--output_order", default="id", choices=["id", "original"], help=order)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(build_parser(), argv)
    from train.distributed import distributed_run

    with distributed_run(args) as process:
        generate(args, process)


def generate(args: argparse.Namespace, process: Process) -> None:
    """Decodes this process's share; the first process writes the predictions of all."""
    from generation.predictions import PartialPredictions, settings_hash, write_predictions
    from generation.run import (
        beam_settings,
        decode,
        load_model,
        open_checkpoint,
        output_order,
        read_prompts,
        resolve_lora,
        what_results_depend_on,
    )
    from train.distributed import gather_objects, patient_group

    from examples.common.record import Run

    settings = beam_settings(args)
    input_files = {role: getattr(args, role) for role in INPUTS}
    file = open_checkpoint(args)
    lora_config = resolve_lora(args, file)
    prompts = read_prompts(args, load_model_card(args.model_card), settings, process)
    if process.is_first:
        print_args(args, **process.found(), lora_dim=lora_config.r, lora_alpha=lora_config.alpha)
        print(f"Experiment dir : {args.work_dir}", flush=True)
    output = make_folder(args.work_dir) / args.output_file
    refuse_overwriting([output, f"{output}.run.json", f"{output}.partial"], [args.model_card, *input_files.values()])
    run = Run(process.device, args.random_seed, input_files)
    loaded = load_model(args, file, lora_config, process)
    sha256 = {role: run.files[role]["sha256"] for role in ("data", "init_checkpoint")}
    dependencies = what_results_depend_on(args, settings, loaded, sha256)
    group = patient_group(process)  # shares of the prompts may take very different times
    with PartialPredictions(output, settings_hash(dependencies), process) as partial:
        print("model sampling ...", flush=True)
        todo = {p: rows[0] for p, rows in zip(prompts.prompts, prompts.rows) if rows[0] not in partial.done}
        found: dict[int, list[int]] = {}
        for batch in decode(loaded.model, todo, settings, args.batch_size, process, static=args.cuda_graphs):
            found |= batch
            partial.add(batch)
        parts = gather_objects(found, process, group)
        if process.is_first:
            by_row = spread(prompts, {row: tokens for part in [partial.done, *parts] for row, tokens in part.items()})
            print(f"saving prediction file {output}", flush=True)
            write_predictions(output, by_row, output_order(args.output_order, prompts.n_rows), settings.eval_len)
            counts = {"rows": prompts.n_rows, "distinct_prompts": len(prompts.prompts), "resumed": len(partial.done)}
            run.write(f"{output}.run.json", settings=asdict(settings), processes=process.world, **counts)
            partial.remove()
            print(f"wrote {prompts.n_rows} predictions to {output.resolve()}", flush=True)


def spread(prompts: PromptRows, found: dict[int, list[int]]) -> dict[int, list[int]]:
    """Tokens by row, from tokens by the row that stands for its prompt."""
    return {row: found[rows[0]] for rows in prompts.rows for row in rows}


if __name__ == "__main__":
    run_main(main)
