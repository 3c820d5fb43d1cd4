"""Training with ``run_clm.py``'s Trainer: LoRA of loralib beside peft's, with equal weights, factors and rows.

The model is a Llama with random weights. What is timed is ``train()`` over a few batches, with all that the Trainer
does; losses are equal (checked). Peak memory is that of a process for each side, or on a GPU what was allocated there.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness  # noqa: F401 makes the project's modules importable; first
import torch
from clm.batches import Collator
from clm.features import IGNORED, Feature
from clm.methods import Lora, apply_method
from clm.run_folder import Facts
from clm.trainer import ClmTrainer
from harness.costs import MIB
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import ratio, side_by_side
from peft import PeftModel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainingArguments

from examples.common.errors import run_main
from examples.common.record import peak_memory_bytes
from loralib import save_adapter
from loralib.utils import lora_layers

B, STEPS, R, V = 8, 2, 8, 49152
LENGTHS = (64, 129)  # tokens of a row, from and below, of which the second half counts
TARGETS = {"query and value": ["q_proj", "v_proj"], "all linear layers": ["all-linear"]}
PEFT = "the same Trainer + peft"


@dataclass(frozen=True)
class Setting:
    n_layer: int
    adapter: Path  # the factors that both sides start from
    device: str
    threads: int

    def base(self) -> LlamaForCausalLM:
        """SmolLM2-135M's shape, but for the depth, which is 30 there."""
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"vocab_size": V, "hidden_size": 576, "intermediate_size": 1536, "use_cache": False}
        sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=self.n_layer, **sizes))

    def write_adapter(self, targets: list[str]) -> None:
        """Random factors, neither of them zero."""
        model = self.base()
        apply_method(model, "lora", Lora(r=R, targets=targets))
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_B, std=0.02)
        save_adapter(model, self.adapter)

    def trainer(self, side: str) -> ClmTrainer:
        """The Trainer around one side's model; a rate so small that what is compared stays equal."""
        model: Any = self.base()
        if side == "ours":
            apply_method(model, "lora", Lora(path=str(self.adapter)))
        else:
            model = PeftModel.from_pretrained(model, str(self.adapter), is_trainable=True)
        options: dict[str, Any] = {"max_steps": STEPS, "per_device_train_batch_size": B, "learning_rate": 1e-6}
        options |= {"train_sampling_strategy": "sequential", "save_strategy": "no", "logging_strategy": "no"}
        options |= {"remove_unused_columns": False, "disable_tqdm": True, "use_cpu": self.device == "cpu"}
        args = TrainingArguments(str(self.adapter / "runs"), **options)
        facts, of = Facts("random", "sft", "lora"), {"train_dataset": rows(), "data_collator": Collator(0)}
        found = ClmTrainer(model, facts, args=args, **of)  # type: ignore[arg-type]
        found.remove_callback(PrinterCallback)
        return found

    def peak_bytes(self, side: str) -> int:
        """Most memory that this process has held when it has trained once."""
        torch.set_num_threads(self.threads)
        self.trainer(side).train()
        return peak_memory_bytes(torch.device(self.device))


def rows() -> list[Feature]:
    """Random tokens for one ``train()``."""
    torch.manual_seed(0)
    ids = [torch.randint(1, V, (n,)).tolist() for n in torch.randint(*LENGTHS, (B * STEPS,)).tolist()]
    return [{"input_ids": row, "labels": [IGNORED] * (len(row) // 2) + row[len(row) // 2 :]} for row in ids]


def measure(bench: Bench, what: str, setting: Setting) -> None:
    works = {side: setting.trainer(side).train for side in ("ours", "peft")}
    losses = {side: train().training_loss for side, train in works.items()}
    assert abs(losses["ours"] / losses["peft"] - 1) < 1e-5, losses
    times = side_by_side(works, rounds=bench.args.rounds, device=setting.device, warm_up=0)
    tokens = sum(len(row["input_ids"]) for row in rows())
    rates = ", ".join(f"{side} {tokens / statistics.median(seconds):.0f}" for side, seconds in times.items())
    case = f"Llama of {setting.n_layer} layers, LoRA r {R} on {what}, batch {B}, fp32"
    shown = "training any causal model" if "all" in what else ""
    bench.add(Row(case, f"time, {PEFT} / ours", ratio(times, "peft", "ours"), f"{rates} tokens a second", shown))
    peaks = {}
    for side in times:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks[side] = pool.submit(setting.peak_bytes, side).result()
    note = ", ".join(f"{side} {peak / MIB:.0f} MiB" for side, peak in peaks.items())
    bench.add(Row(case, f"peak memory, ours / {PEFT}", exact(peaks["ours"] / peaks["peft"]), note))


def main() -> None:
    bench = begin("clm_trainer", bench_parser(__doc__, rounds=5))
    for what, targets in TARGETS.items():
        with tempfile.TemporaryDirectory() as name:
            setting = Setting(4 if bench.args.quick else 30, Path(name), bench.args.device, bench.args.threads)
            setting.write_adapter(targets)
            measure(bench, what, setting)
    bench.write()


if __name__ == "__main__":
    run_main(main)
