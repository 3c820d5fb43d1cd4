"""Fine-tunes and evaluates BERT, RoBERTa, DeBERTa and other encoders on GLUE: LoRA, adapters, BitFit or all weights.

Parse, read the examples, build the model, train, evaluate, predict, write down how it was done.
``python run_glue.py --help`` lists the flags of most runs, ``--help-all`` every one; one JSON file may stand for them.
"""

from __future__ import annotations

import random
from pathlib import Path

from glue.flags import DataArguments, ModelArguments, build_parser

from examples.common.help import answer_early

if __name__ == "__main__":
    answer_early(build_parser)  # before imports that take seconds

import torch
from glue.arguments import GlueTrainingArguments, parse
from glue.export import export_merged
from glue.features import Features, first_rows, label_order, length_limit, padding_collator, tokenize
from glue.losses import find_consistency
from glue.metrics import score_function
from glue.model import TaskModel, build_model, load_tokenizer, model_labels, position_limit, weight_files
from glue.results import best_evaluation, evaluate, predict, save_scores
from glue.sources import Examples, from_files, from_folder, from_hub
from glue.tasks import TASKS
from glue.trainable import count_parameters
from glue.trainer import GlueTrainer
from transformers import set_seed
from transformers.utils import logging

from examples.common.errors import UserError, is_first_process, run_main
from examples.common.files import write_json
from examples.common.processes import leave_process_group
from examples.common.record import Run
from examples.common.resume import output_folder, settings_of, total_batch

__all__ = ["build_parser", "main"]


def main() -> None:
    model_args, data_args, training_args = parse()
    run = Run(training_args.device, training_args.seed, {})
    with output_folder(training_args) as checkpoint:
        fine_tune(model_args, data_args, training_args, run, checkpoint)


def fine_tune(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: GlueTrainingArguments,
    run: Run,
    checkpoint: str | None,
) -> None:
    """Trains, evaluates and predicts as the flags say; ``checkpoint``: the folder of one to go on from."""
    logging.set_verbosity_error()  # what was loaded and what was not is checked, and said, by glue.model
    torch.use_deterministic_algorithms(training_args.use_deterministic_algorithms)
    set_seed(training_args.seed)

    with training_args.main_process_first(desc="reading the examples"):
        known = model_labels(model_args)
        examples = read_examples(data_args, training_args, model_args.cache_dir, known)
    tokenizer = load_tokenizer(model_args)
    labels = label_order(examples, known)
    consistency = find_consistency(model_args.reg_loss_wgt, model_args.masking_prob, tokenizer, examples.is_regression)
    built = build_model(
        model_args,
        task=data_args.task_name,
        labels=labels,
        cls_dropout=training_args.cls_dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    if not (training_args.do_train or built.head_is_trained):
        raise UserError("the classifier would be random: give --do_train, or weights trained for these labels")
    if is_first_process():
        logging.set_verbosity_warning()  # from here on, what transformers has to say is of use

    max_length = length_limit(data_args.max_seq_length, tokenizer, position_limit(built.model))
    with training_args.main_process_first(desc="token ids"):
        features = {
            split: tokenize(
                examples, split, tokenizer, max_length=max_length, labels=labels, cache_dir=model_args.cache_dir
            )
            for split in examples.splits
        }
    validation = {split: rows for split, rows in features.items() if split.startswith("validation")}
    show(built, examples, features)
    settings = None
    if training_args.do_train:
        # method, rank, base and labels are in the file of weights itself
        settings = settings_of(
            training_args,
            examples.splits["train"],
            cls_dropout=training_args.cls_dropout,
            max_seq_length=data_args.max_seq_length,
            reg_loss_wgt=model_args.reg_loss_wgt,
            masking_prob=model_args.masking_prob,
        )
    examples.splits.clear()  # their token ids are on disk
    trainer = GlueTrainer(
        built,
        settings=settings,
        consistency=consistency,
        save_full_model=training_args.save_full_model,
        mismatched=validation.get("validation_mismatched") if "validation_matched" in validation else None,
        args=training_args,
        train_dataset=features.get("train"),
        eval_dataset=next(iter(validation.values()), None),
        data_collator=padding_collator(
            tokenizer,
            pad_to=max_length if data_args.pad_to_max_length else None,
            half_precision=training_args.fp16 or training_args.bf16,
        ),
        processing_class=tokenizer,
        compute_metrics=score_function(data_args.task_name, examples.is_regression),
    )

    scores: dict[str, float] = {}
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        scores |= {**result.metrics, "train_samples": len(features["train"])}
        trainer.save_model()
        trainer.log_metrics("train", scores)
        save_scores(trainer, "train", scores)
        trainer.save_state()
    if training_args.do_eval:
        scores |= evaluate(trainer, validation)
    if training_args.do_predict:
        tests = {split: rows for split, rows in features.items() if split.startswith("test")}
        predict(trainer, tests, data_args.task_name, labels)
    if trainer.is_world_process_zero():
        folder = Path(str(training_args.output_dir))
        if training_args.export_merged:
            export_merged(built.model, tokenizer, training_args.export_merged)
        facts = {
            "model": built.description.as_dict(),
            "parameters": count_parameters(built.model),
            "total_train_batch_size": total_batch(training_args),
        }
        best = best_evaluation(trainer.state.log_history, data_args.task_name, examples.is_regression)
        run.add_files({**examples.files, **weight_files(model_args)})
        run.write(folder / "run.json", resumed_from=checkpoint)
        # last: its presence says that the run is complete
        write_json(folder / "metrics.json", {"scores": scores, "best": best, "seed": training_args.seed, **facts})


def read_examples(
    data: DataArguments, training: GlueTrainingArguments, cache_dir: str | None, known: dict[str, int] | None
) -> Examples:
    """The splits that this run needs, cut to the sample limits; ``known``: labels that the model was trained with."""
    task = TASKS[data.task_name] if data.task_name else None
    wanted = {
        "train": training.do_train,
        "validation": training.do_eval or training.eval_strategy != "no",
        "test": training.do_predict,
    }
    if data.files:
        examples = from_files({split: path for split, path in data.files.items() if wanted[split]}, task, known or ())
    else:
        assert task is not None, "parse() asks for a task or files"
        kinds = {"train": ("train",), "validation": task.validation_splits, "test": task.test_splits}
        splits = [split for kind, needed in wanted.items() if needed for split in kinds[kind]]
        examples = from_folder(data.data_dir, task, splits) if data.data_dir else from_hub(task, splits, cache_dir)
    limits = {"train": data.max_train_samples, "validation": data.max_val_samples, "test": data.max_test_samples}
    for split in examples.splits:
        examples.splits[split] = first_rows(examples.splits[split], limits[split.split("_")[0]])
    return examples


def show(built: TaskModel, examples: Examples, features: dict[str, Features]) -> None:
    """Prints what is trained and three random training examples."""
    if not is_first_process():
        return
    counts = count_parameters(built.model)
    print(
        f"{built.description.method}: {counts['trained_in_base']:,} parameters in the base model and "
        f"{counts['trained_in_head']:,} in the head are trained, of {counts['all']:,}",
        flush=True,
    )
    rows = features.get("train")
    for index in random.Random(0).sample(range(len(rows)), min(3, len(rows))) if rows else ():
        print(f"example {index}: {examples.splits['train'][index]} -> {rows[index] if rows else None}", flush=True)


if __name__ == "__main__":
    run_main(main, at_end=leave_process_group)
