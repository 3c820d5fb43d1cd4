"""Downloads GPT-2's weights and vocabulary and the three data sets to where the README's commands look for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from text.sources import ALL, DEFAULT, GITHUB_URL, HUB_URL, WEIGHT_FILES, downloads_of

from examples.common.downloads import TIME_LIMIT_SECONDS, fetch
from examples.common.errors import UserError, run_main


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if unknown := [name for name in args.names if name not in ALL]:
        raise UserError(f"cannot download {' '.join(unknown)}: expected names out of {', '.join(ALL)}")
    for name in args.names or DEFAULT:
        for download in downloads_of(
            name,
            args.folder,
            weight_format=args.format,
            revision=args.revision,
            hub_url=args.hub_url,
            github_url=args.github_url,
        ):
            print(fetch(download, retries=args.retries, time_limit=args.time_limit), flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(ALL)} (default: {' '.join(DEFAULT)}; several GB)"
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="examples/NLG (default: the current folder)")
    parser.add_argument("--format", choices=WEIGHT_FILES, default="bin", help="of the weights (default: bin)")
    parser.add_argument("--revision", default="main", help="branch, tag or commit on the hub (default: main)")
    parser.add_argument("--retries", type=int, default=5, help="further tries of a file, from its start (default: 5)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        default=TIME_LIMIT_SECONDS,
        help=f"for one file (default: {TIME_LIMIT_SECONDS})",
    )
    parser.add_argument("--hub-url", default=HUB_URL, help=f"server of the weights (default: {HUB_URL})")
    parser.add_argument("--github-url", default=GITHUB_URL, help=f"server of the rest (default: {GITHUB_URL})")
    return parser


if __name__ == "__main__":
    run_main(main)
