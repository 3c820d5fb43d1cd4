"""``run_clm.py`` as a user runs it: every task, resuming bit for bit, early stopping, one line for mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loralib
from examples.common.errors import UserError
from examples.common.lock import LOCK_NAME, locked
from loralib.__main__ import main as loralib_program
from tests.clm.world import CLM, pairs, run, run_two, tiny_model, words, write_jsonl


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "train", "extra"),
    [
        ("sft", "pairs.jsonl", ["--packing", "--chat"]),
        ("lm", "texts.jsonl", ["--method", "full"]),
        ("cls", "films.jsonl", ["--cls_bias"]),
        ("cloze", "films.jsonl", ["--template", "{text} "]),
    ],
)
def test_every_task_trains_evaluates_and_opens_again(task, train, extra, world, tmp_path, monkeypatch):
    out, file = tmp_path / "out", str(world / train)
    evaluation = ["--do_eval", "--validation_file", file, "--task", task, *extra]
    run(world, monkeypatch, "--output_dir", str(out), *evaluation, train=train, base="llama")
    first = metrics(out)["scores"]
    assert first["eval_loss"] > 0 and (task in ("sft", "lm") or "eval_f1_macro" in first)
    if task == "lm":
        words = ["--model_name_or_path", str(out)]
    else:
        words = ["--model_name_or_path", str(world / "llama"), "--lora_path", str(out)]
    monkeypatch.setattr(sys, "argv", ["run_clm.py", *words, *evaluation, "--output_dir", str(tmp_path / "again")])
    import run_clm

    run_clm.main()
    assert metrics(tmp_path / "again")["scores"]["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), [("sft", "lora"), ("cls", "lora"), ("cls", "top2"), ("sft", "bias")])
def test_a_stopped_run_goes_on_bit_for_bit(task, method, world, tmp_path, monkeypatch):
    train = "pairs.jsonl" if task == "sft" else "films.jsonl"
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    flags = ["--task", task, "--method", method, "--save_steps", "2", "--cls_dropout", "0.3"]
    flags += ["--lora_dropout", "0.2"] if method == "lora" else []
    run(world, monkeypatch, *flags, "--output_dir", str(tmp_path / "through"), train=train)
    shutil.copytree(tmp_path / "through" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    (tmp_path / "stopped" / "checkpoint-4").mkdir()  # cut while it was written
    for left in (".clm.json.abcdefgh.partial", "checkpoint-4/.settings.json.abcdefgh.partial"):
        (tmp_path / "stopped" / left).touch()
    run(world, monkeypatch, *flags, "--output_dir", str(tmp_path / "stopped"), train=train)
    a, b = (load_file(tmp_path / folder / name) for folder in ("through", "stopped"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["resumed_from"].endswith("checkpoint-2")
    assert not list((tmp_path / "stopped").rglob("*.partial"))
    losses = [metrics(tmp_path / folder)["scores"]["train_loss"] for folder in ("through", "stopped")]
    assert losses[0] == losses[1] > 0


def test_two_runs_never_mix_in_one_folder(world, tmp_path, monkeypatch):
    with (
        locked(tmp_path / LOCK_NAME),
        pytest.raises(UserError, match=f"is in use: another process holds .*{LOCK_NAME}"),
    ):
        run(world, monkeypatch, "--output_dir", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


@pytest.mark.slow
def test_going_on_with_other_settings_or_examples_is_refused(world, tmp_path, monkeypatch):
    out = ["--output_dir", str(tmp_path), "--save_steps", "2"]
    run(world, monkeypatch, *out)
    with pytest.raises(UserError, match=r"was trained with learning_rate 0\.01, this run has 0\.5"):
        run(world, monkeypatch, *out, "--learning_rate", "0.5")
    with pytest.raises(UserError, match="was trained with other training examples"):
        run(world, monkeypatch, *out, train="pairs_val.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["loss", "token_accuracy"])
def test_early_stopping_returns_the_best_weights(figure, world, tmp_path, monkeypatch):
    """On a validation set that half contradicts the training set, so that the figure gets better and then worse."""
    rows = [{**row, "response": "serves Fast food. yes no"} for row in pairs(5)]
    flags = ["--eval_strategy", "epoch", "--early_stopping_patience", "2", "--metric_for_best_model", figure]
    flags += ["--validation_file", write_jsonl(tmp_path / "val.jsonl", rows), "--do_eval", "--max_steps", "120"]
    run(
        world, monkeypatch, *flags, "--output_dir", str(tmp_path / "out"), "--method", "full", "--learning_rate", "0.03"
    )
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    values = [entry[f"eval_{figure}"] for entry in state["log_history"] if f"eval_{figure}" in entry]
    best = min(values) if figure == "loss" else max(values)
    assert values[0] != best and values[-1] != best and state["global_step"] < 120
    assert metrics(tmp_path / "out")["scores"][f"eval_{figure}"] == pytest.approx(best)
    best_step = 4 * (1 + values.index(best))
    a, b = (load_file(tmp_path / "out" / n / "model.safetensors") for n in (f"checkpoint-{best_step}", "."))
    assert all(torch.equal(a[key], b[key]) for key in b)
    for step in range(best_step + 8, 121, 4):  # as if it had been killed one evaluation after the best
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{step}", ignore_errors=True)
    run(
        world, monkeypatch, *flags, "--output_dir", str(tmp_path / "out"), "--method", "full", "--learning_rate", "0.03"
    )
    again = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert again["global_step"] == state["global_step"] and again["best_metric"] == state["best_metric"]
    c = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(c[key], b[key]) for key in b)


def test_early_stopping_needs_no_flags_about_saving(tmp_path):
    from clm.arguments import parse

    flags = ["--train_file", "x", "--validation_file", "y", "--do_train", "--output_dir", str(tmp_path)]
    for more, strategy in ((["steps", "--eval_steps", "50"], "steps"), (["epoch"], "epoch")):
        args = parse([*flags, "--early_stopping_patience", "2", "--eval_strategy", *more])[2]
        assert args.save_strategy == strategy and args.load_best_model_at_end and args.metric_for_best_model == "loss"
        assert args.greater_is_better is False and (strategy == "epoch" or args.save_steps == 50)
    flags += ["--task", "cls", "--load_best_model_at_end", "--eval_strategy", "epoch"]
    assert parse([*flags, "--metric_for_best_model", "eval_f1_macro"])[2].greater_is_better
    with pytest.raises(UserError, match="--metric_for_best_model bleu: expected one of loss, accuracy, f1_macro"):
        parse([*flags, "--metric_for_best_model", "bleu"])


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_bfloat16_is_slow_without_instructions_for_it(capability, warned, monkeypatch, capsys, tmp_path):
    from clm.arguments import parse

    monkeypatch.setattr("examples.common.record.get_cpu_capability", lambda: capability)
    parse(
        ["--model_name_or_path", "x", "--output_dir", str(tmp_path), "--do_train", "--train_file", "x.jsonl", "--bf16"]
    )
    assert ("no instructions for bfloat16" in capsys.readouterr().err) == warned


@pytest.mark.slow
def test_added_tokens_train_their_rows_alone(world, tmp_path, monkeypatch):
    rows = [{"prompt": "food <|ref|>", "response": "good"}] * 4
    train = write_jsonl(world / "ref.jsonl", rows)
    flags = ["--add_tokens", "<|ref|>", "--weight_decay", "0.1"]
    run(world, monkeypatch, *flags, "--train_added_tokens", "--output_dir", str(tmp_path / "a"), train=Path(train).name)
    before = load_file(world / "gpt2" / "model.safetensors")["transformer.wte.weight"]
    after = load_file(tmp_path / "a" / "adapter_model.safetensors")
    table = next(value for key, value in after.items() if "wte" in key)
    n = len(before)
    assert torch.equal(table[:n], before) and not torch.allclose(table[n], before.mean(0), atol=1e-3)
    run(world, monkeypatch, *flags, "--output_dir", str(tmp_path / "b"), train=Path(train).name)
    assert not any("wte" in key for key in load_file(tmp_path / "b" / "adapter_model.safetensors"))


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(world, tmp_path, monkeypatch):
    flags = ["--optim", "sgd", "--max_grad_norm", 0, "--learning_rate", 1, "--output_dir"]
    run(world, monkeypatch, *flags, tmp_path / "one")
    run_two(CLM / "run_clm.py", *words(world, *flags, tmp_path / "two", "--per_device_train_batch_size", 2))
    a, b = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("one", "two"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-6)
    assert any(value.abs().max() > 1e-3 for key, value in a.items() if "lora_B" in key)


@pytest.mark.slow
def test_an_adapter_merges_into_a_plain_model_of_the_same_logits(world, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    run(world, monkeypatch, "--output_dir", str(tmp_path / "run"), "--lora_targets", "all-linear", base="llama")
    assert loralib_program(["merge", str(world / "llama"), str(tmp_path / "run"), "--out", str(tmp_path / "m")]) == 0
    ids = torch.tensor([[3, 4, 5, 6]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    adapted = loralib.load_adapter(AutoModelForCausalLM.from_pretrained(world / "llama"), tmp_path / "run")
    assert not torch.allclose(merged(ids).logits, tiny_model("llama")(ids).logits, atol=1e-3)
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_base_of_four_bits_trains(world, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    run(world, monkeypatch, "--output_dir", str(tmp_path), "--load_in_4bit", base="llama")
    assert metrics(tmp_path)["parameters"]["trained"] == 3 * 2 * (16 + 16 + 16 + 8)  # q (16, 16), v (8, 16), r 2


# --- mistakes --------------------------------------------------------------------------------------------------------

GOOD = '{"prompt": "a", "response": "b"}\n'


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", [], "is empty"),
        (GOOD + '{"prompt": "a", "resp', [], "line 2: not JSON"),
        (GOOD + '{"prompt": "a"}\n', [], r"line 2: field 'response' must be a text; found prompt"),
        ('{"question": "a"}\n', [], "line 1: expected messages, prompt and response, .*; found question"),
        ('{"prompt": "a", "response": 3}\n', [], "line 1: field 'response' must be a text; it is int"),
        ('{"prompt": "a", "response": " "}\n', [], "line 1: response is empty"),
        ('{"messages": [{"role": "bot", "content": "x"}]}\n', [], "line 1: turn 1 needs a role"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', [], "line 1: no turn of the assistant"),
        ('{"prompt": "%s", "response": "b"}\n' % ("a " * 99), [], "line 1: the prompt has .* leaves no room"),
        ('{"text": "a", "label": "x"}\n', ["--task", "cls"], r"one label only \(x\)"),
        ('{"text": "a"}\n', ["--task", "cls"], "line 1: field 'label' is missing; found text"),
        (
            '{"text": "a", "label": "no yes"}\n{"text": "a", "label": "b"}\n',
            ["--task", "cloze"],
            "needs one token a label",
        ),
        (GOOD, ["--lora_targets", "q_prj"], "matches no module"),
        (GOOD, ["--lora_path", "nowhere"], "--lora_path: .*adapter_config.json is missing"),
        (GOOD, ["--method", "magic"], "--method magic: expected one of lora, full, head, bias, top2"),
        (GOOD, ["--eos_token", "<end>"], "--eos_token <end>: no token of"),
        (GOOD, ["--add_tokens", "<|end|>"], "has this token already"),
        (GOOD, ["--early_stopping_patience", "2"], "give --eval_strategy steps or epoch"),
        (GOOD, ["--do_eval"], "--validation_file is missing"),
        (GOOD, ["--learning_rat", "2"], "learning_rat"),
        (GOOD, ["--model_name_or_path", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_mistake_gets_one_line(content, flags, message, world, tmp_path, monkeypatch):
    (world / "bad.jsonl").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        run(world, monkeypatch, "--output_dir", str(tmp_path), *flags, train="bad.jsonl")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"training.lock"}  # which stays


@pytest.mark.slow
def test_a_foreign_adapter_and_a_foreign_folder_are_refused(world, tmp_path, monkeypatch):
    run(world, monkeypatch, "--output_dir", str(tmp_path / "gpt2"))
    with pytest.raises(UserError, match="the model has no modules transformer"):
        run(
            world, monkeypatch, "--output_dir", str(tmp_path / "b"), "--lora_path", str(tmp_path / "gpt2"), base="llama"
        )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty; pass --overwrite_output_dir"):
        run(world, monkeypatch, "--output_dir", str(tmp_path / "other"))


def test_rows_of_a_table_without_label_are_counted_and_named(world, tmp_path, capsys):
    from clm.sources import read_rows
    from clm.texts import labelled

    (tmp_path / "q.csv").write_text('\tid\tsentence1\tsentence2\tlabel\n0\tx\t"a ""b"""\tc\t0.0\n1\ty\td\te\t\n')
    (tmp_path / "sms.tsv").write_text('ham\tsay "no\nspam\tbuy\n')
    found = labelled(
        read_rows(tmp_path / "q.csv"), template="{sentence1}={sentence2}", text_column=None, label_column=None
    )
    assert [(row.text, row.label) for row in found] == [('a "b"=c', "0.0")]
    assert "1 rows lack a text or a label and are left out" in capsys.readouterr().err
    rows = read_rows(tmp_path / "sms.tsv", ["label", "text"])
    assert rows[0].fields == {"label": "ham", "text": 'say "no'}
