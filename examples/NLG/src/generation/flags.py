"""The flags of ``gpt2_beam.py``; needs no torch, so that ``--help`` comes at once."""

from __future__ import annotations

import argparse
import os

EOS = 50256  # <|endoftext|>; always ends a hypothesis, --eos_token_id adds to it, as released


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the released ``gpt2_beam.py`` in its order."""
    add = parser.add_argument
    add(
        "--data", default="../data/wikitext-103", help="token ids as gpt2_encode.py writes them; completions are unread"
    )
    add(
        "--batch_size",
        type=int,
        default=10,
        help="prompts decoded together; changes results by rounding at most (default: 10)",
    )
    add("--seq_len", type=int, default=512, help="a prompt keeps its last seq_len - eval_len ids (default: 512)")
    add("--eval_len", type=int, default=256, help="most tokens to generate (default: 256)")
    add("--min_length", type=int, default=0, help="no end of text before that many tokens (default: 0)")
    add("--model_card", default="gpt2.sm", help="gpt2.sm, gpt2.md, gpt2.lg, or a JSON file (default: gpt2.sm)")
    add("--init_checkpoint", default=None, help="complete checkpoint, or one of LoRA only")
    add("--lora_dim", type=int, default=None, help="rank r (default: that of the checkpoint)")
    add("--lora_alpha", type=int, default=None, help="scaling is alpha / r (default: as the checkpoint records)")
    add("--work_dir", default=os.getenv("PT_OUTPUT_DIR", "gpt2_model"), help="output folder (default: gpt2_model)")
    add("--beam", type=int, default=1, help="hypotheses kept for each prompt (default: 1)")
    add("--length_penalty", type=float, default=1.0, help="exponent of the length; larger: longer text (default: 1)")
    add("--no_repeat_ngram_size", type=int, default=4, help="no n-gram twice in a text; 0: any (default: 4)")
    add("--repetition_penalty", type=float, default=1.0, help="above 1: tokens are used less often again (default: 1)")
    add("--eos_token_id", action="append", type=int, default=[EOS], help="added to the default [50256]; repeatable")
    add("--output_file", default="beam_prediction.jsonl", help="in --work_dir (default: beam_prediction.jsonl)")
    new = parser.add_argument_group("not in the released code")
    new.add_argument("--base_checkpoint", default=None, help="pretrained file under an --init_checkpoint of LoRA only")
    new.add_argument("--bf16", action="store_true", help="bfloat16 weights: faster, and results differ")
    new.add_argument(
        "--cuda_graphs", action="store_true", help="each step is one CUDA graph (GPU; off: not yet run on one)"
    )
    new.add_argument(
        "--output_order",
        default="id",
        choices=["id", "original"],
        help="of the lines: by id, or shuffled as the released program at batch size 1 (default: id)",
    )
