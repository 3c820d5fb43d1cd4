"""The claims of the paper and of the later studies, each with the comparison here that decides it."""

from __future__ import annotations

from dataclasses import dataclass

from compare import Results, Table, in_words, interval, ratio

NEAR = 1.0  # points that do not count as worse
FIGURES = {"ROUGE_L": "ROUGE-L", "correct": "accuracy"}
GLUE = ("sst2", "cola", "mrpc", "rte")


@dataclass(frozen=True)
class Claim:
    """Row ``a`` against ``b``: ``near`` is held where the interval of a - b lies above -NEAR, ``above`` where above 0,
    ``below`` where ratio of a cost lies under 1. A star stands for each task of GLUE, and their mean decides.
    """

    text: str
    source: str
    kind: str
    a: str
    b: str
    figure: str = "ROUGE_L"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        tasks = GLUE if "*" in self.a else ("",)
        return [(self.a.replace("*", task), self.b.replace("*", task)) for task in tasks]


PAPER = "Hu et al."
CLAIMS = (
    Claim("LoRA is as good as full fine-tuning or better", f"{PAPER}, Table 3", "near", "e2e/lora-qv", "e2e/full"),
    Claim("the same on GLUE", f"{PAPER}, Table 2", "near", "glue/*-lora", "glue/*-full", "correct"),
    Claim("the same, LoRA on all linear layers", "Swift; CS7643", "near", "e2e/lora-all", "e2e/full"),
    Claim("LoRA is better than the last layers alone", f"{PAPER}, Table 3", "above", "e2e/lora-qv", "e2e/top2"),
    Claim("LoRA is better than the head alone", "CS224N", "above", "glue/*-lora", "glue/*-head", "correct"),
    Claim("LoRA is as good as adapters", f"{PAPER}, Table 2", "near", "glue/*-lora", "glue/*-adapter", "correct"),
    Claim(
        "LoRA is as good as BitFit or better", f"{PAPER}, Table 2", "near", "glue/*-lora", "glue/*-bitfit", "correct"
    ),
    Claim("rank 1 is nearly enough on query and value", f"{PAPER}, Table 6", "near", "e2e/r1", "e2e/r8"),
    Claim("the same on GLUE (SST-2)", f"{PAPER}, Table 6", "near", "glue/sst2-r1", "glue/sst2-lora", "correct"),
    Claim("rank 4 is as good as 64", f"{PAPER}, Table 6", "near", "e2e/r4", "e2e/r64"),
    Claim("the same on GLUE (SST-2)", f"{PAPER}, Table 6", "near", "glue/sst2-r4", "glue/sst2-r64", "correct"),
    Claim("larger ranks do not help", "CS224N", "near", "e2e/r8", "e2e/r64"),
    Claim("query and value beat query alone at one budget", f"{PAPER}, Table 5", "above", "e2e/qv", "e2e/q"),
    Claim("query and value beat key alone at one budget", f"{PAPER}, Table 5", "above", "e2e/qv", "e2e/k"),
    Claim("query and value are as good as all four at one budget", f"{PAPER}, Table 5", "near", "e2e/qv", "e2e/qkvo"),
    Claim("LoRA on all layers beats query and value", "Swift, Table 3", "above", "e2e/lora-all", "e2e/lora-qv"),
    *(
        Claim(text, f"{PAPER}, section 4.2", "below", f"{block}lora{end}", f"{block}full", figure)
        for block, end in (("e2e/", "-qv"), ("glue/sst2-", ""))
        for text, figure in (
            ("less memory in training", "peak_memory_bytes"),
            ("a smaller result", "result_bytes"),
            ("faster training", "cpu_seconds"),
        )
    ),
)


def verdict(claim: Claim, results: Results) -> tuple[str, str]:
    """The comparison in words, and what follows from it."""
    name = f"{claim.a} − {claim.b}"
    if claim.kind == "below":
        share = ratio(results, claim.a, claim.b, claim.figure)
        name = name.replace("−", "over")
        return (name, "not run yet") if share is None else (f"{name}: {share:.3g}", "held" if share < 1 else "not held")
    found = interval(results, claim.pairs, claim.figure)
    if found is None:
        return name, "not run yet"
    margin = -NEAR if claim.kind == "near" else 0.0
    held = "held" if found[1] > margin else "not held" if found[2] < margin else "undecided"
    return f"{name}, {FIGURES[claim.figure]}: {in_words(found)}", held


def claims_table(results: Results) -> Table:
    """Each claim with its verdict."""
    table = [["claim", "from", "here", "verdict"]]
    for claim in CLAIMS:
        comparison, held = verdict(claim, results)
        table.append([claim.text, claim.source, comparison, held if held == "not run yet" else f"**{held}**"])
    return table
