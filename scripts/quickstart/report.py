"""Ends the quickstart: the table on the terminal, and results.json, results.md and report.html beside the runs.

    python scripts/quickstart/report.py FOLDER --test_data FOLDER/data/tokens/test_formatted.jsonl

FOLDER as ``quickstart/results.py`` describes it. report.html stands alone: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from examples.common.errors import run_main
from examples.common.files import atomic_write, write_json
from examples.common.report import Line, escape, line_chart, page, processor, table
from scripts.quickstart.results import (
    ABSENT,
    HEADINGS,
    SCORES,
    SLOT_HEADINGS,
    Results,
    Variant,
    as_json,
    markdown_table,
    read_results,
    row_of,
    slot_row,
    text_table,
)

COLOURS = {"untuned": "var(--s4)", "lora": "var(--s1)", "full": "var(--s2)", "base": "var(--s3)"}
EXAMPLES = 12
STYLE = """
article { border-top: 1px solid var(--rule); padding: 18px 0; }
.mr { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 12px; font-size: 14px; }
.mr span { background: var(--soft); border: 1px solid var(--rule); border-radius: 5px; padding: 1px 8px; }
.mr b { font-weight: 500; color: var(--quiet); }
dl { display: grid; grid-template-columns: 9em 1fr; gap: 6px 16px; margin: 0; }
dt { font-size: 14px; font-weight: 600; padding-top: 2px; } dd { margin: 0; overflow-wrap: anywhere; }
dl ul { margin: 0; padding-left: 1.1em; color: var(--quiet); }
@media (max-width: 700px) { dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 8px; } }
"""
# of the training runs: name in the table, flag of gpt2_ft.py
SETTINGS = {
    **{"r": "lora_dim", "alpha": "lora_alpha", "dropout": "lora_dropout", "learning rate": "lr"},
    **{"batch": "train_batch_size", "label smoothing": "label_smooth", "weight decay": "weight_decay"},
    **{"seed": "random_seed", "longest row": "seq_len"},
}


def summary(results: Results) -> str:
    """What the table says, in a sentence made of its own numbers."""
    by_key = {variant.key: variant for variant in results.variants}
    lora, full = by_key["lora"], by_key.get("full")
    count = full.trainable_parameters if full else lora.total_parameters or 1
    text = (
        f"LoRA trains {lora.trainable_parameters:,} parameters, {lora.trainable_parameters / count:.2%} of the "
        f"{count:,} of {'full fine-tuning' if full else 'the model'}"
    )
    if all("BLEU" in variant.scores for variant in results.variants):
        bleu = {key: f"{100 * variant.scores['BLEU']:.1f}" for key, variant in by_key.items()}
        against = f" against {bleu['full']}" if full else ""
        text += f", and reaches BLEU {bleu['lora']}{against}; the base model without tuning has {bleu['untuned']}"
    return f"{text}."


def curves_html(results: Results) -> str:
    """Losses over the training examples seen, since the runs have batches of different sizes."""
    tuned = [variant for variant in results.variants if variant.curves]
    axes = ("training examples seen", "loss in nats per token")
    figures = [line_chart("Fine-tuning", [line for v in tuned for line in lines_of(v)], *axes)]
    if results.base:
        figures.append(line_chart("Base model, on the general corpus", lines_of(results.base), *axes))
    note = "A step is one batch; batches differ, so the axis counts examples."
    if smoothing := max((setting(v, "label_smooth", 0.0) or 0.0 for v in tuned), default=0.0):
        note += (
            f" Training losses are label-smoothed ({smoothing:g}), validation losses are not: compare like with like."
        )
    return f'<div class="charts">{"".join(figures)}</div><p class="note">{note}</p>'


def setting(variant: Variant, flag: str, otherwise: Any = None) -> Any:
    return variant.metrics.get("settings", {}).get(flag, otherwise)


def lines_of(variant: Variant) -> list[Line]:
    batch = setting(variant, "train_batch_size", 1)
    kinds = (("training", "train_loss", True), ("validation", "valid_loss", False))
    return [
        Line(
            f"{variant.title}, {kind} (batch {batch})",
            COLOURS[variant.key],
            [(batch * step, loss) for step, loss in variant.curves.get(name, [])],
            dashed,
        )
        for kind, name, dashed in kinds
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


def settings_html(results: Results) -> str:
    """Settings of the training runs, one row each, and what they ran on and when."""
    runs = [variant for variant in [*results.variants, results.base] if variant and variant.metrics]

    def cell(run: Variant, flag: str) -> str:
        value = setting(run, flag)
        unused = flag.startswith("lora") and not setting(run, "lora_dim")
        return ABSENT if value is None or unused else f"{value:g}" if isinstance(value, int | float) else str(value)

    rows = [[run.title, *(cell(run, flag) for flag in SETTINGS.values()), f"{run.steps:,}"] for run in runs]
    settings = table(["", *SETTINGS, "steps"], rows, [COLOURS[run.key] for run in runs])
    facts = {name: {str(run.record[name]): 1 for run in runs if name in run.record} for name in ("began", "commit")}
    facts["device"] = {str(run.metrics.get("device", ABSENT)): 1 for run in runs}
    versions = {name: version for run in runs for name, version in run.metrics.get("versions", {}).items()}
    lines = [
        f"Date: {', '.join(value[:16].replace('T', ' ') + ' UTC' for value in list(facts['began'])[:1]) or ABSENT}",
        f"Commit: {', '.join(facts['commit']) or ABSENT}",
        f"Device: {', '.join(facts['device'])}; CPU: {processor()}",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]
    return settings + "".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def with_slots(results: Results) -> list[Variant]:
    """Rows of the table of slot errors."""
    return [variant for variant in results.variants if variant.slots]


def report_html(results: Results) -> str:
    texts = sum(len(example.references) for example in results.examples)
    about = f"{len(results.examples)} test inputs with {texts} references. BLEU, METEOR and ROUGE-L are times 100."
    scores = table(HEADINGS, [row_of(v) for v in results.variants], [COLOURS[v.key] for v in results.variants])
    scored = with_slots(results)
    commands = f"<h2>Commands</h2><pre>{escape(chr(10).join(results.commands))}</pre>" if results.commands else ""
    slots = table(SLOT_HEADINGS, [slot_row(v) for v in scored], [COLOURS[v.key] for v in scored]) if scored else ""
    body = f"""<h1>Fine-tuning with LoRA, and without</h1>
<p class="lead">{escape(summary(results))}</p>
<h2>Results</h2>{scores}
{slots}<p class="note">{escape(about)} "Result" is the file that a run leaves to be shipped; LoRA's holds the update
alone. Peak memory is the most that training held at once. On a CPU that is the whole process: Python and its libraries,
which outweigh a small model, weights, gradients, optimiser and activations. On a GPU it is tensors alone.</p>
<h2>Settings</h2>{settings_html(results)}
<h2>Loss curves</h2>{curves_html(results)}
<h2>Decoded sentences</h2>
<p class="note">{min(EXAMPLES, len(results.examples))} inputs, evenly spaced over the test set.</p>
{examples_html(results)}
{commands}"""
    return page("LoRA quickstart: results", body, STYLE)


def report_markdown(results: Results) -> str:
    commands = "".join(f"    {command}\n" for command in results.commands)
    scores = f"BLEU, METEOR and ROUGE-L are times 100; {len(results.examples)} test inputs.\n"
    table = markdown_table(row_of(variant) for variant in results.variants)
    scored = with_slots(results)
    slots = f"\n{markdown_table(map(slot_row, scored), SLOT_HEADINGS)}" if scored else ""
    return f"# Quickstart results\n\n{summary(results)}\n\n{table}\n{scores}{slots}" + (
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
    if scored := with_slots(results):
        print(f"\n{text_table(map(slot_row, scored), SLOT_HEADINGS)}")
    if missing := {name for name in SCORES for v in results.variants if name not in v.scores}:
        print(f"not scored: {', '.join(name for name in SCORES if name in missing)} (see scores.json)")
    print(f"report: {(folder / 'report.html').resolve()}")


if __name__ == "__main__":
    run_main(main)
