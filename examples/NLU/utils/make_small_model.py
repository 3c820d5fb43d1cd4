"""Makes a small RoBERTa from texts: byte-level BPE, then masked-language modelling. For trials without a download.

The folder that it leaves goes to ``--model_name_or_path``, like the published ``roberta-base``:

    python utils/make_small_model.py glue_data --output small
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from texts import read_texts

from examples.common.errors import UserError, need_docstrings, run_main
from examples.common.files import atomic_folder

SMALLEST_VOCABULARY = 256 + 5  # all bytes and the special tokens


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("texts", type=Path, nargs="+", help=".tsv, .jsonl, .txt or .gz; of a folder its train*")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--vocab_size", type=int, default=8000, help="most tokens (default: 8000)")
    parser.add_argument("--layers", type=int, default=4, help="(default: 4)")
    parser.add_argument("--width", type=int, default=192, help="hidden size (default: 192)")
    parser.add_argument("--heads", type=int, default=6, help="attention heads (default: 6)")
    parser.add_argument("--max_length", type=int, default=128, help="most tokens of a text (default: 128)")
    parser.add_argument("--max_steps", type=int, default=4000, help="0 leaves random weights (default: 4000)")
    parser.add_argument("--batch_size", type=int, default=64, help="texts a step (default: 64)")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="highest, of AdamW (default: 1e-3)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser


def check(args: argparse.Namespace) -> None:
    """A ``UserError`` where numbers cannot work, before anything is read."""
    least = {"vocab_size": SMALLEST_VOCABULARY, "max_length": 8, "max_steps": 0}
    for name in ("vocab_size", "layers", "width", "heads", "max_length", "max_steps", "batch_size"):
        if getattr(args, name) < least.get(name, 1):
            raise UserError(f"--{name} must be at least {least.get(name, 1)}, got {getattr(args, name)}")
    if args.width % args.heads:
        raise UserError(f"--width {args.width} is no multiple of --heads {args.heads}")
    if not args.learning_rate > 0:
        raise UserError(f"--learning_rate must be above 0, got {args.learning_rate}")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"--output {args.output} exists; delete it or name another folder")


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    check(args)
    need_docstrings()
    import torch  # with transformers some seconds, which --help and a mistaken flag need not wait for
    from small_roberta import build_model, pretrain, tokenize, train_tokenizer

    texts = read_texts(args.texts)
    tokenizer = train_tokenizer(texts, args.vocab_size, args.max_length)
    rows = tokenize(texts, tokenizer, args.max_length)
    print(f"{len(texts):,} texts, {sum(map(len, rows)):,} tokens, vocabulary {len(tokenizer):,}", flush=True)
    torch.manual_seed(args.seed)
    sizes = {"layers": args.layers, "width": args.width, "heads": args.heads, "max_length": args.max_length}
    model = build_model(len(tokenizer), **sizes)
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {model.device}", flush=True)
    pretrain(model, rows, steps=args.max_steps, batch_size=args.batch_size, lr=args.learning_rate, seed=args.seed)
    with atomic_folder(args.output) as partial:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)


if __name__ == "__main__":
    run_main(main)
