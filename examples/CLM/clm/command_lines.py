"""Flags of ``generate.py`` and ``score.py``; their help comes at once, without torch and transformers."""

from __future__ import annotations

from clm.flags import DTYPES
from examples.common.help import Parser

GENERATE = "Continues prompts with a causal language model and its adapters; JSON lines in the order of the prompts."
SCORE = """
Scores: perplexity of texts under a model, labels, texts against references, and the E2E challenge's five figures.

score.py perplexity --adapter RUN --input test.jsonl
score.py labels     --predictions RUN/test_results.txt --references test.jsonl
score.py texts      --hypotheses generated.jsonl --references test.jsonl
score.py e2e        --hypotheses generated.jsonl --references refs.txt
"""


def generate_parser() -> Parser:
    """Parser of ``generate.py``."""
    parser = Parser(description=GENERATE, allow_abbrev=False)
    add = parser.add_argument_group("model and prompts").add_argument
    add("--model", metavar="NAME", help="base model, or folder of a run; default: the base of the first adapter")
    add("--adapter", nargs="+", default=[], metavar="[NAME=]FOLDER", help="one, or several that share batches")
    add("--input", metavar="FILE", help="rows with prompt, context, instruction or messages; adapter: name of one")
    add("--prompt", nargs="+", default=[], metavar="TEXT", help="prompts themselves")
    add("--output", metavar="FILE", help="JSON lines; default: the texts on the terminal")
    add("--chat", action="store_true", help="put prompts into the chat template, as the run's own --chat does")
    add("--separator", help="behind a prompt without white space at its end; default: the run's own")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    add("--batch_size", type=int, default=8, metavar="N", help="prompts at once (default: 8)")
    add("--seed", type=int, default=42, metavar="N", help="of sampling (default: 42)")
    add("--stream", action="store_true", help="show a single text while it grows; on a terminal always")
    add = parser.add_argument_group("decoding (greedy without flags; the names are transformers')").add_argument
    add("--max_new_tokens", type=int, default=128, metavar="N", help="(default: 128)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search")
    add("--temperature", type=float, metavar="T", help="sample, from probabilities sharpened by 1/T")
    add("--top_k", type=int, metavar="K", help="sample from the K most probable tokens")
    add("--top_p", type=float, metavar="P", help="sample from the most probable tokens that make up P")
    add("--repetition_penalty", type=float, default=1.0, metavar="X", help="divide scores of tokens that occurred")
    add("--no_repeat_ngram_size", type=int, default=0, metavar="N", help="no N tokens twice")
    add("--length_penalty", type=float, default=1.0, metavar="X", help="of beams: score / length**X")
    add("--num_return_sequences", type=int, default=1, metavar="N", help="texts of each prompt")
    return parser


def score_parser() -> Parser:
    """The four commands of ``score.py``."""
    parser = Parser(description=SCORE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    added = commands.add_parser("perplexity", help="nats per token, bits per byte")
    added.add_argument("--model", metavar="NAME", help="base model, or folder of a run")
    added.add_argument("--adapter", metavar="FOLDER", help="on the base")
    added.add_argument("--input", required=True, metavar="FILE", help="texts, or prompts with responses")
    added.add_argument("--max_seq_length", type=int, metavar="N", help="longer texts are scored in parts of N tokens")
    added.add_argument("--dtype", choices=DTYPES, default="float32")
    added.add_argument("--batch_size", type=int, default=8, metavar="N")
    added = commands.add_parser("labels", help="accuracy and macro F1")
    added.add_argument("--predictions", required=True, metavar="FILE", help="test_results.txt of a run, or rows")
    added.add_argument("--references", required=True, metavar="FILE", help="rows with labels")
    added.add_argument("--label_column", default="label", metavar="NAME")
    for name, text in (("texts", "chrF and ROUGE-L"), ("e2e", "BLEU, NIST, METEOR, ROUGE-L, CIDEr; needs Java")):
        added = commands.add_parser(name, help=text)
        added.add_argument("--hypotheses", required=True, metavar="FILE", help="what generate.py wrote, or .txt")
        added.add_argument("--references", required=True, metavar="FILE", help="rows; for e2e groups of lines or a CSV")
    added.add_argument("--python", action="store_true", help="BLEU and NIST by the scorer's Python definition")
    added.add_argument("--slots", metavar="FILE", help="inputs, for a count of slot errors")
    added.add_argument("--seg_level", metavar="FILE", help="also write the figures of each text there")
    for command in commands.choices.values():
        command.add_argument("--json", metavar="FILE", help="also write the scores there")
    return parser
