"""Fine-tunes and evaluates a causal language model: instructions, texts, or labels; LoRA or other ways to train.

Parse, read the examples, build the model, train, evaluate, write down how it was done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clm.flags import DataArguments, ModelArguments, build_parser

from examples.common.help import answer_early

if __name__ == "__main__":
    answer_early(build_parser)  # before imports that take seconds

import torch
from clm.arguments import ClmTrainingArguments, parse
from clm.batches import Collator, packing_collator
from clm.features import Feature, Tokens, pack
from clm.heads import word_ids
from clm.losses import finite
from clm.methods import Lora, apply_method, count_parameters, train_rows
from clm.model import embedding_weights, load_config, load_model, load_tokenizer, position_limit, weight_files
from clm.run_folder import Facts, read_facts
from clm.sources import read_rows
from clm.texts import Labelled, dialogue, label_names, labelled, plain_text
from clm.trainer import ClmTrainer
from transformers import set_seed
from transformers.utils import logging

from examples.common.errors import UserError, run_main, warn
from examples.common.files import atomic_write, write_json
from examples.common.processes import leave_process_group
from examples.common.record import Run
from examples.common.resume import output_folder, settings_of

__all__ = ["build_parser", "main"]

# flags of model and data that a resumed run may change: names of files, whose content is compared instead
FILES = ("train_file", "validation_file", "test_file", "max_train_samples", "max_eval_samples", "cache_dir")


def main() -> None:
    model_args, data_args, args = parse()
    logging.set_verbosity_error()  # what was loaded and what was not is checked by clm.model
    logging.disable_progress_bar()  # of reading weights
    with output_folder(args) as checkpoint:
        fine_tune(model_args, data_args, args, checkpoint)


def fine_tune(
    model_args: ModelArguments, data_args: DataArguments, args: ClmTrainingArguments, checkpoint: str | None
) -> None:
    """Trains, evaluates, predicts: what was asked for."""
    set_seed(args.seed)
    paths = {
        "train": data_args.train_file if args.do_train else None,
        "validation": data_args.validation_file if args.do_eval or args.eval_strategy != "no" else None,
        "test": data_args.test_file if args.do_predict else None,
    }
    run = Run(args.device, args.seed, {**paths, **weight_files(model_args.model_name_or_path, model_args.lora_path)})
    hub = {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision}

    load_config(model_args.model_name_or_path, **hub)  # first: another kind of model has another kind of tokenizer too
    tokenizer = load_tokenizer(
        model_args.tokenizer_name or _tokenizer_folder(model_args.lora_path) or model_args.model_name_or_path,
        eos_token=model_args.eos_token,
        add_tokens=tuple(model_args.add_tokens or ()),
        **hub,
    )
    rows = {split: read_rows(path, data_args.columns) for split, path in paths.items() if path}
    has_labels = data_args.task in ("cls", "cloze")
    texts = {split: _labelled(rows[split], data_args, split != "test") for split in rows} if has_labels else {}
    labels = _labels(texts, model_args) if has_labels else ()
    model = load_model(
        model_args.model_name_or_path,
        tokenizer,
        labels=labels if data_args.task == "cls" else (),
        dropout=model_args.cls_dropout,
        bias=model_args.cls_bias,
        dtype=getattr(torch, model_args.base_dtype),
        load_in_4bit=model_args.load_in_4bit,
        **hub,
    )
    facts = Facts(
        base=model_args.model_name_or_path,
        task=data_args.task,
        method=model_args.method,
        labels=labels,
        word_ids=word_ids(tokenizer, labels, data_args.label_words) if data_args.task == "cloze" else (),
        separator=data_args.separator,
        chat=data_args.chat,
        template=data_args.template,
        lowercase=data_args.lowercase,
        max_seq_length=min(data_args.max_seq_length, position_limit(model)),
    )
    if facts.max_seq_length < data_args.max_seq_length:
        warn(
            f"--max_seq_length {data_args.max_seq_length}: the model has {facts.max_seq_length} positions; using these"
        )
    lora = Lora(
        model_args.lora_r,
        model_args.lora_alpha,
        model_args.lora_dropout,
        model_args.lora_init,
        model_args.lora_targets,
        model_args.lora_path,
    )
    apply_method(model, model_args.method, lora, model_args.train_blocks)
    if model_args.train_added_tokens:
        train_rows(model, [tokenizer.get_vocab()[token] for token in model_args.add_tokens or ()])

    tokens = Tokens(tokenizer, facts.max_seq_length, fill=data_args.loss_on_padding)
    features = _features(rows, texts, tokens, data_args, labels)
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples, "test": None}
    features = {split: found[: limits[split]] for split, found in features.items()}
    folder = Path(str(args.output_dir))
    counts = count_parameters(model)
    if args.should_log:
        trained = f"{counts['trained']:,} parameters, and {counts['trained_in_head']:,} in the head,"
        print(f"{model_args.method}: {trained} are trained, of {counts['all']:,}", flush=True)
    flags = {name: value for name, value in {**vars(model_args), **vars(data_args)}.items() if name not in FILES}
    settings = settings_of(args, features["train"], **flags) if args.do_train else None
    collator = Collator(tokenizer.pad_token_id)
    train = features.get("train")
    if data_args.packing and train is not None:
        collator = packing_collator(model, tokenizer.pad_token_id)
        train = pack(train, facts.max_seq_length)
        if args.should_log:
            print(f"packed {len(features['train'])} examples into {len(train)} rows", flush=True)
    tables = {id(weight) for weight in embedding_weights(model)} if model_args.train_added_tokens else set()
    trainer = ClmTrainer(
        model,
        facts,
        settings=settings,
        no_decay=frozenset(name for name, parameter in model.named_parameters() if id(parameter) in tables),
        args=args,
        train_dataset=train,
        eval_dataset=features.get("validation"),
        data_collator=collator,
        processing_class=tokenizer,
    )

    scores: dict[str, Any] = {}
    if args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        scores |= {**result.metrics, "train_samples": len(features["train"])}
        trainer.save_model()
        trainer.save_state()
    if args.do_eval:
        scores |= trainer.evaluate()
        scores["eval_samples"] = len(features["validation"])
    if args.do_predict:
        _predict(trainer, features["test"], labels, folder / "test_results.txt")
    if trainer.is_world_process_zero():
        best = {"figure": args.metric_for_best_model, "value": trainer.state.best_metric}
        run.write(folder / "run.json", resumed_from=checkpoint)
        # last: its presence says that the run is complete
        content = {
            "scores": finite(scores),
            "best": best if args.load_best_model_at_end else None,
            "parameters": counts,
        }
        write_json(folder / "metrics.json", {**content, "seed": args.seed, "task": facts.task, "method": facts.method})
        for name, value in finite(scores).items():
            print(f"{name}: {value}", flush=True)


def _tokenizer_folder(path: str | None) -> str | None:
    """An adapter's own tokenizer, which knows the tokens that were added for it."""
    return path if path and (Path(path) / "tokenizer_config.json").is_file() else None


def _labelled(rows: Any, data: DataArguments, needs_label: bool) -> list[Labelled]:
    return labelled(
        rows,
        template=data.template,
        text_column=data.text_column,
        label_column=data.label_column,
        lowercase=data.lowercase,
        needs_label=needs_label,
    )


def _labels(texts: dict[str, list[Labelled]], model: ModelArguments) -> tuple[str, ...]:
    """The labels of the training examples, else those that the given weights were trained with."""
    if "train" in texts:
        labels = label_names(texts["train"])
        if len(labels) < 2:
            raise UserError(f"the training examples have one label only ({', '.join(labels)}); two are needed")
        return labels
    facts = read_facts(model.lora_path or model.model_name_or_path)
    if facts is not None and facts.labels:
        return facts.labels
    raise UserError(
        "without --do_train, give --lora_path or --model_name_or_path of a run that was trained with labels"
    )


def _features(
    rows: dict[str, Any],
    texts: dict[str, list[Labelled]],
    tokens: Tokens,
    data: DataArguments,
    labels: tuple[str, ...],
) -> dict[str, list[Feature]]:
    """Features of all splits."""
    found: dict[str, list[Feature]] = {}
    for split in rows:
        if data.task == "sft":
            dialogues = (dialogue(row, separator=data.separator, chat=data.chat) for row in rows[split])
            found[split] = [tokens.of_dialogue(example, data.loss_on_prompt) for example in dialogues]
        elif data.task == "lm":
            whole = ((plain_text(row, data.text_column), row.where) for row in rows[split])
            found[split] = [feature for text, where in whole for feature in tokens.of_text(text, where)]
        else:
            keep_end = data.task == "cloze"
            found[split] = [tokens.of_label(example, labels, keep_end) for example in texts[split]]
        tokens.report(split)
    return found


def _predict(trainer: ClmTrainer, features: list[Feature], labels: tuple[str, ...], path: Path) -> None:
    """Writes the label of each test row, in their order."""
    logits: Any = trainer.predict(features).predictions  # type: ignore[arg-type]
    if trainer.is_world_process_zero():
        with atomic_write(path) as stream:
            stream.write("index\tprediction\n")
            for index, label in enumerate(torch.as_tensor(logits).argmax(-1).tolist()):
                stream.write(f"{index}\t{labels[label]}\n")


if __name__ == "__main__":
    run_main(main, at_end=leave_process_group)
