"""Continues prompts with GPT-2, with or without LoRA, by beam search.

Writes ``--output_file`` in ``--work_dir``: one line ``{"id": row, "predict": [eval_len token ids]}`` for each row of
``--data``, filled up with id 0. Beside it a record, ``<output_file>.run.json``, and while it runs
``<output_file>.partial``, from which the same command goes on after an interruption. Ends with 0 after a whole run, 2
after a mistake, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from generation.flags import add_decoding_flags
from gpt2.config import load_model_card
from train.flags import add_platform_flags, parse, print_args

from examples.common.errors import run_main
from examples.common.files import make_folder, refuse_overwriting

if TYPE_CHECKING:  # torch takes a second to import, which --help and a mistaken flag need not wait for
    from generation.run import PromptRows
    from train.distributed import Process


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_platform_flags(parser)
    add_decoding_flags(parser)
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
        print_args(args, **process.found())
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


INPUTS = ("data", "init_checkpoint", "base_checkpoint")


def spread(prompts: PromptRows, found: dict[int, list[int]]) -> dict[int, list[int]]:
    """Tokens by row, from tokens by the row that stands for its prompt."""
    return {row: found[rows[0]] for rows in prompts.rows for row in rows}


if __name__ == "__main__":
    run_main(main)
