"""Ends the quickstart: the table on the terminal, and results.json, results.md and report.html beside the runs.

    python scripts/quickstart/report.py FOLDER --test_data FOLDER/e2e/test_formatted.jsonl
    (PYTHONPATH: scripts and examples/NLG/src)

FOLDER as ``quickstart/results.py`` describes it. report.html stands alone: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

import argparse
import html
import os
from pathlib import Path

from examples.common.errors import run_main
from examples.common.files import atomic_write, write_json
from quickstart.chart import Line, line_chart
from quickstart.results import (
    HEADINGS,
    SCORES,
    Results,
    Variant,
    as_json,
    markdown_table,
    read_results,
    row_of,
    text_table,
)

COLOURS = {"untuned": "#8a8f98", "lora": "#c2410c", "full": "#1d4ed8", "base": "#0f766e"}
EXAMPLES = 12
STYLE = """
:root { --ink: #1c2024; --quiet: #5f6670; --rule: #e3e5e8; --soft: #f6f7f8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 48px 0 12px; }
p { max-width: 46em; } .lead, .note { color: var(--quiet); } .note { font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { text-align: right; padding: 10px 12px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-size: 13px; font-weight: 600; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; font-weight: 600; padding-left: 0; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 8px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 28px; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 8px; } figure > svg { width: 100%; height: auto; }
.grid { stroke: var(--rule); } .tick { font-size: 12px; fill: var(--quiet); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0 0; }
.legend { font-size: 14px; }
.key { width: 26px; height: 8px; margin-right: 6px; }
article { border-top: 1px solid var(--rule); padding: 18px 0; }
.mr { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 12px; font-size: 14px; }
.mr span { background: var(--soft); border: 1px solid var(--rule); border-radius: 5px; padding: 1px 8px; }
.mr b { font-weight: 500; color: var(--quiet); }
dl { display: grid; grid-template-columns: 9em 1fr; gap: 6px 16px; margin: 0; }
dt { font-size: 14px; font-weight: 600; padding-top: 2px; } dd { margin: 0; overflow-wrap: anywhere; }
dl ul { margin: 0; padding-left: 1.1em; color: var(--quiet); }
pre { background: var(--soft); border: 1px solid var(--rule); border-radius: 6px; padding: 14px; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 600px) {
  dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 8px; } main { padding-top: 24px; }
}
"""


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def table_html(results: Results) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    body = []
    for variant in results.variants:
        first, *rest = row_of(variant)
        dot = f'<span class="dot" style="background:{COLOURS[variant.key]}"></span>'
        body.append(f"<tr><td>{dot}{escape(first)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def summary(results: Results) -> str:
    """What the table says, in a sentence made of its own numbers."""
    by_key = {variant.key: variant for variant in results.variants}
    untuned, lora, full = by_key["untuned"], by_key["lora"], by_key["full"]
    share = lora.trainable_parameters / full.trainable_parameters
    text = (
        f"LoRA trains {lora.trainable_parameters:,} parameters, {share:.2%} of the "
        f"{full.trainable_parameters:,} of full fine-tuning"
    )
    if all("BLEU" in variant.scores for variant in results.variants):
        bleu = [f"{100 * variant.scores['BLEU']:.1f}" for variant in (lora, full, untuned)]
        text += f", and reaches BLEU {bleu[0]} against {bleu[1]}; the base model without tuning has {bleu[2]}"
    return f"{text}."


def curves_html(results: Results) -> str:
    tuned = [variant for variant in results.variants if variant.curve.train or variant.curve.valid]
    figures = [line_chart("Fine-tuning", [line for v in tuned for line in lines_of(v)], "step", "loss, nats per token")]
    if results.base:
        title = "Base model, on the general corpus"
        figures.append(line_chart(title, lines_of(results.base), "step", "loss, nats per token"))
    note = ""
    smoothing = {v.metrics.get("settings", {}).get("label_smooth") or 0 for v in tuned}
    if any(smoothing):
        note = (
            f'<p class="note">Training losses are label-smoothed ({max(smoothing):g}), validation losses are not: '
            "compare each with its own kind.</p>"
        )
    return f'<div class="charts">{"".join(figures)}</div>{note}'


def lines_of(variant: Variant) -> list[Line]:
    colour = COLOURS[variant.key]
    return [
        Line(f"{variant.title}, training", colour, variant.curve.train, dashed=True),
        Line(f"{variant.title}, validation", colour, variant.curve.valid),
    ]


def examples_html(results: Results) -> str:
    """Inputs spread evenly over the test set, so that nobody chose them by their result."""
    count = min(EXAMPLES, len(results.examples))
    return "".join(example_html(results, i * len(results.examples) // count) for i in range(count))


def example_html(results: Results, index: int) -> str:
    example = results.examples[index]
    chips = []
    for fact in example.context.split(" | "):
        slot, colon, value = fact.partition(" : ")
        chips.append(f"<span><b>{escape(slot)}</b> {escape(value)}</span>" if colon else f"<span>{escape(fact)}</span>")
    rows = [
        f'<dt style="color:{COLOURS[variant.key]}">{escape(variant.title)}</dt>'
        f"<dd>{escape(variant.predictions[index])}</dd>"
        for variant in results.variants
    ]
    references = "".join(f"<li>{escape(reference)}</li>" for reference in example.references)
    rows.append(f"<dt>references</dt><dd><ul>{references}</ul></dd>")
    return f'<article><div class="mr">{"".join(chips)}</div><dl>{"".join(rows)}</dl></article>'


def record_html(results: Results) -> str:
    """Seeds, devices and versions of the runs, and the commands."""
    runs = [variant for variant in [*results.variants, results.base] if variant and variant.metrics]
    rows = "".join(
        f"<tr><td>{escape(run.title)}</td><td>{escape(run.metrics.get('seed', ''))}</td><td>{escape(run.steps)}</td>"
        f"<td>{escape(run.metrics.get('device', ''))}</td></tr>"
        for run in runs
    )
    head = "<thead><tr><th></th><th>seed</th><th>steps</th><th>device</th></tr></thead>"
    table = f"<table>{head}<tbody>{rows}</tbody></table>"
    versions = {name: version for run in runs for name, version in run.metrics.get("versions", {}).items()}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    commands = f"<h2>Commands</h2><pre>{escape(chr(10).join(results.commands))}</pre>" if results.commands else ""
    return f'<h2>Record</h2><div class="scroll">{table}</div><p class="note">{escape(listed)}</p>{commands}'


def report_html(results: Results) -> str:
    texts = sum(len(example.references) for example in results.examples)
    about = f"{len(results.examples)} test inputs with {texts} references. BLEU, METEOR and ROUGE-L are times 100."
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>LoRA quickstart: results</title><style>{STYLE}</style></head><body><main>
<h1>Fine-tuning with LoRA, and without</h1>
<p class="lead">{escape(summary(results))}</p>
<h2>Results</h2>{table_html(results)}
<p class="note">{escape(about)} "Result" is the file that a run leaves to be shipped; LoRA's holds the update alone.</p>
<h2>Loss curves</h2>{curves_html(results)}
<h2>Decoded sentences</h2>
<p class="note">{min(EXAMPLES, len(results.examples))} inputs, evenly spaced over the test set.</p>
{examples_html(results)}
{record_html(results)}
</main></body></html>
"""


def report_markdown(results: Results) -> str:
    commands = "".join(f"    {command}\n" for command in results.commands)
    scores = f"BLEU, METEOR and ROUGE-L are times 100; {len(results.examples)} test inputs.\n"
    table = markdown_table(row_of(variant) for variant in results.variants)
    return f"# Quickstart results\n\n{summary(results)}\n\n{table}\n{scores}" + (
        f"\nCommands:\n\n{commands}" if commands else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="with the runs; the report is written into it")
    parser.add_argument("--test_data", required=True, help="*_formatted.jsonl of the test split")
    args = parser.parse_args()
    folder = Path(args.folder)
    results = read_results(folder, Path(args.test_data))
    write_json(folder / "results.json", as_json(results))
    for name, text in (("results.md", report_markdown(results)), ("report.html", report_html(results))):
        with atomic_write(folder / name) as stream:
            stream.write(text)
    print(text_table(row_of(variant) for variant in results.variants))
    if missing := {name for name in SCORES for v in results.variants if name not in v.scores}:
        print(f"not scored: {', '.join(name for name in SCORES if name in missing)} (see scores.json)")
    print(f"report: {os.path.relpath(folder / 'report.html')}")


if __name__ == "__main__":
    run_main(main)
