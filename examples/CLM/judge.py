"""Lets a language model score texts from 0 to 100, through any OpenAI-compatible endpoint; the environment has its key.

Without one, score.py has figures that need nobody's opinion: chrF and ROUGE-L.
"""

from __future__ import annotations

import os

from clm.endpoint import Endpoint
from clm.judging import ANSWER_TOKENS, Answers, estimate, parse_score, question
from clm.sources import read_rows

from examples.common.errors import UserError, run_main
from examples.common.files import refuse_overwriting, write_json
from examples.common.help import Parser
from examples.common.progress import with_progress


def build_parser() -> Parser:
    """Parser of all flags."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="what generate.py wrote for rows that have their target")
    add("--answers", required=True, metavar="FILE", help="every answer as it comes; what it has is not asked again")
    add("--url", required=True, metavar="URL", help="up to /chat/completions, such as http://localhost:8000/v1")
    add("--judge", required=True, metavar="NAME", help="the model to ask")
    add("--key_variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable with the key, if any")
    add("--repeats", type=int, default=3, metavar="K", help="scores of each text (default: 3)")
    add("--temperature", type=float, default=0.0, metavar="T", help="of the judge (default: 0)")
    add("--seed", type=int, default=42, metavar="N", help="of the first repeat, for endpoints that heed it")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds of one try (default: 60)")
    add("--tries", type=int, default=5, metavar="N", help="of one question (default: 5)")
    add("--per_minute", type=float, metavar="N", help="most questions in a minute")
    add("--price_in", type=float, metavar="X", help="of a million tokens read, for the estimate")
    add("--price_out", type=float, metavar="X", help="of a million tokens written")
    add("--dry_run", action="store_true", help="print the estimate and ask nothing")
    add("--json", metavar="FILE", help="also write the summary there")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    for name in ("repeats", "tries", "timeout", "per_minute"):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise UserError(f"--{name} must be above 0, got {value}")
    if not args.judge.isprintable():
        raise UserError(f"--judge must be one line of printable text, got {args.judge!a}")
    refuse_overwriting([args.answers, *([args.json] if args.json else [])], [args.input])
    questions = [question(row, args.judge) for row in read_rows(args.input)]
    answers = Answers(args.answers, questions)
    left = list(answers.missing(len(questions), args.repeats))
    read, written = estimate([questions[index] for index, _ in left], 1)
    price = read * (args.price_in or 0) / 1e6 + written * (args.price_out or 0) / 1e6
    cost = f", about {price:.2f} in the unit of the prices" if args.price_in or args.price_out else ""
    print(f"{len(left)} questions to ask: about {read:,} tokens in, at most {written:,} out{cost}", flush=True)
    if args.dry_run:
        return
    endpoint = Endpoint(
        args.url,
        args.judge,
        os.environ.get(args.key_variable, ""),
        timeout_s=args.timeout,
        tries=args.tries,
        per_minute=args.per_minute,
    )
    for index, repeat in with_progress(left, len(left), "question"):
        answer = endpoint.ask(
            questions[index].prompt,
            max_tokens=ANSWER_TOKENS,
            temperature=args.temperature,
            seed=args.seed + repeat,
            fits=lambda text: parse_score(text) is not None,
        )
        answers.add(index, repeat, questions[index].digest, answer)
    summary = {"judge": args.judge, "temperature": args.temperature, **answers.summary(len(questions), args.repeats)}
    for name, value in summary.items():
        print(f"{name}: {value}", flush=True)
    if args.json:
        write_json(args.json, summary)


if __name__ == "__main__":
    run_main(main)
