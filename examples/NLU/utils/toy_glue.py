"""Makes what an offline trial of the GLUE recipes needs: six generated tasks in the official layouts, and a tiny base.

One word of the last sentence decides the label. MNLI's mismatched half is about a harbour, all else about a house. The
base is a RoBERTa with random weights and a tokenizer of whole words. Scores on these tasks compare with nothing.

    python utils/toy_glue.py toy        # toy/MNLI, toy/MRPC, ..., toy/base
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.common.errors import UserError, need_docstrings, run_main
from examples.common.files import atomic_folder

HOUSE = ("cat", "dog", "child", "letter", "lamp", "basket", "clock", "mirror")
HARBOUR = ("sailor", "gull", "anchor", "barrel", "rope", "captain", "crate", "flag")
FRAME = ("the", "stood", "near", "was")
WORDS = ("awful", "lovely", "round")  # by the label's place
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # at RoBERTa's ids

MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
)
# folder: labels, header, row
TASKS = {
    "MNLI": (
        ("entailment", "neutral", "contradiction"),
        MNLI.replace(" ", "\t"),
        "{i}\t{i}\t{i}p\ttoy\t\t\t\t\t{first}\t{last}\t{label}\t{label}",
    ),
    "MRPC": (("0", "1"), "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t{i}\t{i}\t{first}\t{last}"),
    "RTE": (("entailment", "not_entailment"), "index\tsentence1\tsentence2\tlabel", "{i}\t{first}\t{last}\t{label}"),
    "STS-B": (
        ("0.0", "2.5", "5.0"),
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "{i}\ttoy\ttoy\t2012\t{i}\tnone\tnone\t{first}\t{last}\t{label}",
    ),
    "SST-2": (("0", "1"), "sentence\tlabel", "{last}\t{label}"),
    "CoLA": (("0", "1"), "", "toy\t{label}\t\t{last}"),
}


def write_task(folder: Path, task: str, counts: dict[str, int], seed: int) -> None:
    """Files of one task; ``counts``: examples of ``train`` and ``dev``."""
    labels, header, layout = TASKS[task]
    folder.mkdir()
    for split in ("train", "dev_matched", "dev_mismatched") if task == "MNLI" else ("train", "dev"):
        draw = random.Random(f"{seed} {task} {split}")
        lines = [header] if header else []
        for i in range(counts[split.partition("_")[0]]):
            one, two, three = draw.sample(HARBOUR if split == "dev_mismatched" else HOUSE, 3)
            sentences = {
                "first": f"the {one} stood near the {two}",
                "last": f"the {three} was {WORDS[i % len(labels)]}",
            }
            lines.append(layout.format(i=i, label=labels[i % len(labels)], **sentences))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_base(folder: Path, seed: int) -> None:
    """A RoBERTa of two layers; random weights larger than usual, so that LoRA on them has something to work with."""
    need_docstrings()
    import torch  # with transformers some seconds, which --help and a mistake need not wait for
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    words = [*SPECIAL, *FRAME, *HOUSE, *HARBOUR, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL)),
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    sizes |= {"vocab_size": len(words), "max_position_embeddings": 34, "type_vocab_size": 1}
    RobertaModel(RobertaConfig(**sizes, initializer_range=0.1)).save_pretrained(folder)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to make")
    parser.add_argument("--train", type=int, default=384, help="examples of each train file (default: 384)")
    parser.add_argument("--dev", type=int, default=60, help="examples of each dev file (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if min(args.train, args.dev) < 3:
        raise UserError(f"--train {args.train} and --dev {args.dev} must be at least 3, one of each label")
    if args.target.exists():
        raise UserError(f"{args.target} exists; delete it or name another folder")
    with atomic_folder(args.target) as partial:
        for task in TASKS:
            write_task(partial / task, task, {"train": args.train, "dev": args.dev}, args.seed)
        save_base(partial / "base", args.seed)


if __name__ == "__main__":
    run_main(main)
