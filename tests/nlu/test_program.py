"""run_glue.py from files to files: what it learns, what it leaves alone, what it writes."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from glue.arguments import parse
from glue.checkpoint import read_trained
from glue.lora import add_lora
from glue.model import build_model
from glue.weights import load_trained
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaForSequenceClassification

from examples.common.errors import UserError
from tests.nlu.world import (
    lora_flags,
    make_tokenizer,
    read_json,
    recorded_deberta,
    run,
    run_here,
    save_base,
    sentences,
    tiny_gpt2,
    train_flags,
)
from tests.shared_data import shared_path

PREDICTION_HEADER = "index\tprediction"


def predictions_of(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == PREDICTION_HEADER
    return [line.split("\t")[1] for line in lines[1:]]


def rebuilt(base, file, num_labels=2):
    """Model of a base folder and a file of LoRA and head, without the program."""
    model = RobertaForSequenceClassification.from_pretrained(base, num_labels=num_labels)
    description = read_trained(file).description
    add_lora(model, r=description.r, lora_alpha=description.lora_alpha)
    assert load_trained(model, read_trained(file).tensors, tags=("lora",), source="file")
    return model.eval()


def logits_of(model, tokenizer, texts):
    """One text at a time: no padding at all."""
    with torch.no_grad():
        return torch.cat(
            [model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits for text in texts]
        ).numpy()


@pytest.mark.slow
def test_a_whole_run_on_real_cola(tmp_path):
    """Frozen weights keep their bytes; the written score is sklearn's, of predictions made without the program."""
    train = gzip.decompress(shared_path("data/glue/CoLA/train.tsv.gz").read_bytes()).decode().split("\n")[:300]
    dev = shared_path("data/glue/CoLA/dev_in_domain.tsv").read_text(encoding="utf-8").split("\n")[:200]
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA/train.tsv").write_text("\n".join(train) + "\n", encoding="utf-8")
    (tmp_path / "CoLA/dev.tsv").write_text("\n".join(dev) + "\n", encoding="utf-8")
    test = shared_path("data/glue/CoLA/test.tsv").read_text(encoding="utf-8").split("\n")[:51]
    (tmp_path / "CoLA/test.tsv").write_text("\n".join(test) + "\n", encoding="utf-8")
    base = save_base(tmp_path / "base", [line.split("\t")[3] for line in train])
    flags = ["--model_name_or_path", base, "--task_name", "cola", "--data_dir", tmp_path, "--max_seq_length", 32]
    out = tmp_path / "out"
    run(
        *(*flags, "--output_dir", out, *lora_flags(), *train_flags(epochs=2)),
        *("--do_eval", "--do_predict", "--save_full_model", "--evaluation_strategy", "epoch"),
    )

    before = load_file(base / "model.safetensors")
    after = torch.load(out / "pytorch_model.bin", weights_only=True)
    assert before.keys() <= {name.removeprefix("roberta.") for name in after}
    assert all(torch.equal(value, after[f"roberta.{name}"]) for name, value in before.items())
    assert any(name.endswith("lora_B") and bool(value.any()) for name, value in after.items())

    model, tokenizer = rebuilt(base, out), AutoTokenizer.from_pretrained(base)
    rows = [line.split("\t") for line in dev]
    predicted = logits_of(model, tokenizer, [row[3] for row in rows]).argmax(-1)
    scores = read_json(out / "eval_results.json")
    assert scores["eval_matthews_correlation"] == matthews_corrcoef([int(row[1]) for row in rows], predicted)
    assert scores["eval_samples"] == 200
    names = ["unacceptable", "acceptable"]
    expected = logits_of(model, tokenizer, [line.split("\t")[1] for line in test[1:]]).argmax(-1)
    assert predictions_of(out / "test_results_cola.txt") == [names[label] for label in expected]

    record = read_json(out / "run.json")
    assert record["seed"] == 0 and len(record["files"]["train"]["sha256"]) == 64
    metrics = read_json(out / "metrics.json")
    assert metrics["best"]["eval_matthews_correlation"] >= scores["eval_matthews_correlation"]
    assert metrics["parameters"]["trained_in_base"] == 2 * 2 * (4 * 16 + 16 * 4)  # layers, q and v, A and B


@pytest.mark.slow
def test_lora_learns(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=12, lr=2e-2), "--do_eval")
    assert read_json(out / "eval_results.json")["eval_matthews_correlation"] > 0.9


ADAPTERS = ["--apply_adapter", "--adapter_size", 3, "--adapter_type"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("adapter", [*ADAPTERS, "houlsby"]),
        ("adapter", [*ADAPTERS, "pfeiffer"]),
        ("bias", ["--apply_bitfit"]),
        ("head", ["--train_head_only"]),
        ("adapter+bias", ["--apply_bitfit", *ADAPTERS, "pfeiffer"]),
        ("lora+adapter+bias", [*lora_flags(), "--apply_bitfit", *ADAPTERS, "houlsby"]),
    ],
    ids=["houlsby", "pfeiffer", "bitfit", "head", "bitfit+pfeiffer", "all"],
)
def test_every_method_trains_what_it_says_and_comes_back_from_its_file(method, flags, world, tmp_path, monkeypatch):
    out, again = tmp_path / "out", tmp_path / "again"
    run_here(monkeypatch, *world.flags(out), *flags, *train_flags(), "--do_eval")
    file = read_trained(out)
    assert file.description.method == method
    assert read_json(out / "metrics.json")["parameters"]["trained_in_base"] == sum(
        value.numel() for name, value in file.tensors.items() if name.startswith("roberta.")
    )
    path = ["--lora_path" if "lora" in method else "--adapter_path", out]
    run_here(monkeypatch, *world.flags(again), *flags, *path, "--do_eval")
    for key in ("eval_loss", "eval_matthews_correlation"):
        assert read_json(again / "eval_results.json")[key] == read_json(out / "eval_results.json")[key]


@pytest.mark.slow
def test_full_fine_tuning_leaves_a_stock_model(world, tmp_path, monkeypatch):
    out, again = tmp_path / "out", tmp_path / "again"
    run_here(monkeypatch, *world.flags(out), *train_flags(), "--do_eval")
    config = AutoModelForSequenceClassification.from_pretrained(out).config
    assert config.id2label == {0: "unacceptable", 1: "acceptable"}
    run_here(monkeypatch, *world.flags(again), "--model_name_or_path", out, "--do_eval")
    assert read_json(again / "eval_results.json")["eval_loss"] == read_json(out / "eval_results.json")["eval_loss"]


@pytest.mark.slow
def test_evaluating_from_the_saved_file_gives_the_scores_of_the_run(world, tmp_path, monkeypatch):
    """The file says rank and alpha itself."""
    out, again = tmp_path / "out", tmp_path / "again"
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(), "--do_eval")
    run_here(monkeypatch, *world.flags(again), "--apply_lora", "--lora_path", out, "--do_eval")
    for key in ("eval_loss", "eval_matthews_correlation"):
        assert read_json(out / "eval_results.json")[key] == read_json(again / "eval_results.json")[key]


@pytest.mark.slow
def test_padding_to_the_batch_or_to_the_limit_is_the_same_mathematics(world, tmp_path, monkeypatch):
    """Dropout off, so that both draw nothing: losses of training and evaluation agree to rounding."""
    base = save_base(
        tmp_path / "base",
        [text for text, _ in sentences(160, 0)],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    found = []
    for padding in ([], ["--pad_to_max_length"]):
        out = tmp_path / f"out{len(found)}"
        flags = [*world.flags(out), "--model_name_or_path", base, *lora_flags(), *train_flags(epochs=1), *padding]
        run_here(monkeypatch, *flags, "--do_eval")
        found.append(read_json(out / "all_results.json"))
    assert found[0]["train_loss"] == pytest.approx(found[1]["train_loss"], abs=1e-6)
    assert found[0]["eval_loss"] == pytest.approx(found[1]["eval_loss"], abs=1e-6)


@pytest.mark.slow
def test_one_json_file_stands_for_the_flags(world, tmp_path, monkeypatch):
    flags = {
        "model_name_or_path": str(world.base),
        "task_name": "cola",
        "data_dir": str(world.glue),
        "do_eval": True,
        "do_train": True,
        "apply_lora": True,
        "lora_r": 4,
        "lora_alpha": 8,
        "num_train_epochs": 1,
        "seed": 0,
        "learning_rate": 1e-2,
        "evaluation_strategy": "epoch",
        "warmup_ratio": 0.06,
        "save_strategy": "no",
        "output_dir": str(tmp_path / "json"),
        "overwrite_output_dir": True,
        "pad_to_max_length": False,
    }
    (tmp_path / "flags.json").write_text(json.dumps(flags), encoding="utf-8")
    run_here(monkeypatch, tmp_path / "flags.json")
    run_here(
        monkeypatch,
        *(*world.flags(tmp_path / "flags"), *lora_flags(), "--do_train", "--do_eval", "--num_train_epochs", 1),
        *("--seed", 0, "--learning_rate", 1e-2, "--warmup_steps", 0.06, "--save_strategy", "no"),
    )
    assert (
        read_json(tmp_path / "json/eval_results.json")["eval_loss"]
        == read_json(tmp_path / "flags/eval_results.json")["eval_loss"]
    )


def write_mnli(folder, names):
    header = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label"
    (folder / "MNLI").mkdir(parents=True)
    for split, count in names.items():
        labels = ["neutral", "entailment", "contradiction"]
        lines = [
            f"{i}\tp\tq\tfiction\t\t\t\t\tthe cat was {i}\tthe dog was {i % 5}\t{labels[i % 3]}\t{labels[i % 3]}"
            for i in range(count)
        ]
        (folder / "MNLI" / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_mnli_keeps_matched_and_mismatched_apart(world, tmp_path, monkeypatch):
    glue = write_mnli(tmp_path, {"train": 30, "dev_matched": 7, "dev_mismatched": 11})
    for split in ("test_matched", "test_mismatched"):
        rows = "".join(f"{i}\tthe cat\tthe dog\n" for i in range(4))
        (glue / "MNLI" / f"{split}.tsv").write_text(f"index\tsentence1\tsentence2\n{rows}", encoding="utf-8")
    out = tmp_path / "out"
    flags = ["--model_name_or_path", world.base, "--task_name", "mnli", "--data_dir", glue, "--output_dir", out]
    run_here(monkeypatch, *flags, *lora_flags(), *train_flags(epochs=1), "--do_eval", "--do_predict")
    matched, mismatched = read_json(out / "eval_results.json"), read_json(out / "eval_mm_results.json")
    assert (matched["eval_samples"], mismatched["eval_mm_samples"]) == (7, 11)
    everything = read_json(out / "all_results.json")
    assert everything["eval_accuracy"] == matched["eval_accuracy"]
    assert everything["eval_mm_accuracy"] == mismatched["eval_mm_accuracy"]
    right = matched["eval_accuracy"] * 7 + mismatched["eval_mm_accuracy"] * 11
    assert everything["eval_overall_accuracy"] == pytest.approx(right / 18)
    assert len(predictions_of(out / "test_results_mnli.txt")) == 4
    assert set(predictions_of(out / "test_results_mnli-mm.txt")) <= {"entailment", "neutral", "contradiction"}


@pytest.mark.slow
def test_mnli_is_evaluated_on_both_halves_during_training(world, tmp_path, monkeypatch):
    glue = write_mnli(tmp_path, {"train": 30, "dev_matched": 7, "dev_mismatched": 11})
    out = tmp_path / "out"
    flags = ["--model_name_or_path", world.base, "--task_name", "mnli", "--data_dir", glue, "--output_dir", out]
    run_here(monkeypatch, *flags, *lora_flags(), *train_flags(epochs=2), "--do_eval", "--evaluation_strategy", "epoch")
    metrics = read_json(out / "metrics.json")
    best = metrics["best"]
    right = best["eval_accuracy"] * 7 + best["eval_mm_accuracy"] * 11
    assert best["eval_overall_accuracy"] == pytest.approx(right / 18)
    assert best["eval_overall_accuracy"] >= metrics["scores"]["eval_overall_accuracy"]


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_anew(world, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    (out / "checkpoint-20").mkdir(parents=True)  # cut off before the trainer's state was written
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=1))
    assert "holds no complete checkpoint" in capsys.readouterr().err
    assert (out / "metrics.json").is_file()


@pytest.mark.slow
def test_stsb_is_a_regression_scored_by_both_correlations(world, tmp_path, monkeypatch):
    texts = sorted({text for text, _ in sentences(200, 4)})[:40]
    rows = [{"sentence1": text, "sentence2": "the dog", "label": i % 6 / 1.2} for i, text in enumerate(texts)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    test = [{key: row[key] for key in ("sentence1", "sentence2")} for row in rows]
    (tmp_path / "test.json").write_text("\n".join(map(json.dumps, test)), encoding="utf-8")
    out = tmp_path / "out"
    run_here(
        monkeypatch,
        *("--model_name_or_path", world.base, "--task_name", "stsb", "--output_dir", out, *lora_flags()),
        *("--train_file", tmp_path / "train.json", "--validation_file", tmp_path / "dev.json"),
        *("--test_file", tmp_path / "test.json", "--do_predict", "--do_eval", *train_flags(epochs=1)),
    )
    scores = read_json(out / "eval_results.json")
    labels = np.array([row["label"] for row in rows])
    model, tokenizer = rebuilt(world.base, out, num_labels=1), AutoTokenizer.from_pretrained(world.base)
    with torch.no_grad():
        pairs = [tokenizer(row["sentence1"], row["sentence2"], return_tensors="pt") for row in rows]
        values = torch.cat([model(**pair).logits for pair in pairs]).squeeze(-1).numpy()
    assert scores["eval_pearson"] == pytest.approx(pearsonr(values, labels).statistic, abs=1e-5)
    assert scores["eval_spearmanr"] == pytest.approx(spearmanr(values, labels).statistic, abs=1e-3)
    assert scores["eval_combined_score"] == pytest.approx((scores["eval_pearson"] + scores["eval_spearmanr"]) / 2)
    assert predictions_of(out / "test_results_stsb.txt") == [f"{value:.3f}" for value in values]


@pytest.mark.slow
def test_csv_files_of_ones_own_need_no_task(world, tmp_path, monkeypatch):
    lines = [f'"the {text}, said ""he""",{"good" if label else "bad"}' for text, label in sentences(40, 2)]
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    run_here(
        monkeypatch,
        *("--model_name_or_path", world.base, "--output_dir", out, *lora_flags(), *train_flags(epochs=1)),
        *("--train_file", tmp_path / "train.csv", "--validation_file", tmp_path / "dev.csv", "--do_eval"),
        *("--test_file", tmp_path / "test.csv", "--do_predict"),
    )
    assert read_trained(out).description.labels == ("bad", "good")
    assert set(predictions_of(out / "test_results.txt")) <= {"bad", "good"}
    assert 0 <= read_json(out / "eval_results.json")["eval_accuracy"] <= 1
    # one label among the rows, and none at all: the file of the run knows both
    (tmp_path / "one.csv").write_text("text,label\nthe cat was great,good\n", encoding="utf-8")
    (tmp_path / "none.csv").write_text("text\nthe cat was great\n", encoding="utf-8")
    start = ["--model_name_or_path", world.base, "--apply_lora", "--lora_path", out, "--output_dir", tmp_path / "again"]
    run_here(monkeypatch, *start, "--validation_file", tmp_path / "one.csv", "--do_eval")
    run_here(monkeypatch, *start, "--test_file", tmp_path / "none.csv", "--do_predict")
    (prediction,) = predictions_of(tmp_path / "again/test_results.txt")
    assert (prediction == "good") == (read_json(tmp_path / "again/eval_results.json")["eval_accuracy"] == 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deberta", "gpt2"])
def test_other_models_train_export_and_predict_alike(kind, world, tmp_path, monkeypatch):
    """The merged stock model, read by transformers alone, predicts what the program's model predicted."""
    tokenizer = make_tokenizer([text for text, _ in sentences(100, 0)])
    base = tmp_path / "base"
    size = len(tokenizer)
    extra = ["--cls_dropout", 0.15, "--reg_loss_wgt", 1.0, "--masking_prob", 0.1] if kind == "deberta" else []
    if kind == "gpt2":
        tokenizer.pad_token = None
        tiny_gpt2(vocab_size=size, pad_token_id=None, bos_token_id=0, eos_token_id=2).transformer.save_pretrained(base)
    else:
        recorded_deberta(vocab_size=size, pad_token_id=1).deberta.save_pretrained(base)
    tokenizer.save_pretrained(base)
    rows = "".join(f"{i}\t{text}\n" for i, (text, _) in enumerate(sentences(20, 5)))
    (world.glue / "CoLA/test.tsv").write_text(f"index\tsentence\n{rows}", encoding="utf-8")
    out = tmp_path / "out"
    run_here(
        monkeypatch,
        *(*world.flags(out), "--model_name_or_path", base, *lora_flags(), *train_flags(epochs=1), *extra),
        *("--do_eval", "--do_predict", "--export_merged", tmp_path / "merged"),
    )
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    again = AutoTokenizer.from_pretrained(tmp_path / "merged")
    expected = logits_of(merged, again, [text for text, _ in sentences(20, 5)]).argmax(-1)
    assert predictions_of(out / "test_results_cola.txt") == [merged.config.id2label[int(label)] for label in expected]
    file = read_trained(out)
    assert file.description.targets == (("c_attn",) if kind == "gpt2" else ("query_proj", "value_proj"))
    run_here(
        monkeypatch,
        *world.flags(tmp_path / "again"),
        "--model_name_or_path",
        base,
        "--apply_lora",
        "--lora_path",
        out,
        "--do_eval",
    )
    key = "eval_matthews_correlation"
    assert read_json(tmp_path / "again/eval_results.json")[key] == read_json(out / "eval_results.json")[key]


@pytest.mark.parametrize(("flag", "expected"), [([], 0.1), (["--cls_dropout", 0], 0.0), (["--cls_dropout", 0.3], 0.3)])
def test_the_dropout_before_the_classifier_is_the_flag_else_that_of_the_model(flag, expected, world, tmp_path):
    """Zero is a value, not an absent flag."""
    recorded_deberta(pad_token_id=1, hidden_dropout_prob=0.1).deberta.save_pretrained(tmp_path)
    words = [*world.flags(tmp_path / "o"), "--model_name_or_path", tmp_path, *lora_flags(), *train_flags(), *flag]
    model_args, _, training_args = parse([str(word) for word in words])
    built = build_model(
        model_args, task="cola", labels=("a", "b"), cls_dropout=training_args.cls_dropout, pad_token_id=1
    )
    assert built.model.dropout.p == expected
    assert built.model.deberta.encoder.layer[0].output.dropout.p == 0.1


@pytest.mark.slow
def test_a_task_of_two_labels_starts_from_the_adapter_of_a_task_of_three(world, tmp_path, monkeypatch, capsys):
    """As MRPC, RTE and STS-B start from MNLI: the factors are MNLI's, the head is fresh."""
    mnli, cola = tmp_path / "mnli", tmp_path / "cola"
    glue = write_mnli(tmp_path / "glue", {"train": 40})
    flags = ["--model_name_or_path", world.base, "--task_name", "mnli", "--data_dir", glue, "--output_dir", mnli]
    run_here(monkeypatch, *flags, *lora_flags(), *train_flags(epochs=1))
    start = [*world.flags(cola), "--apply_lora", "--lora_path", mnli / "pytorch_model_lora.bin"]
    run_here(monkeypatch, *start, *train_flags(lr=0.0, epochs=1))
    assert "its head has 3 labels, this task has 2" in capsys.readouterr().err
    before, after = read_trained(mnli), read_trained(cola)
    assert (after.description.r, after.description.lora_alpha, after.description.task) == (4, 8, "cola")
    for name, value in after.tensors.items():
        if "lora_" in name:
            assert torch.equal(value, before.tensors[name])
    assert after.tensors["classifier.out_proj.weight"].shape == (2, 16)
    with pytest.raises(UserError, match="the classifier would be random"):
        run_here(monkeypatch, *world.flags(tmp_path / "x"), *start[-3:], "--do_eval")


@pytest.mark.slow
def test_adapters_in_the_naming_of_the_adapter_hub_are_read(world, tmp_path, monkeypatch):
    out, again, hub = tmp_path / "out", tmp_path / "again", tmp_path / "hub"
    flags = ["--apply_adapter", "--adapter_type", "pfeiffer", "--adapter_size", 3]
    run_here(monkeypatch, *world.flags(out), *flags, *train_flags(), "--do_eval")
    adapter, head = {}, {}
    for name, value in read_trained(out).tensors.items():
        name = name.replace(".adapter.adapter_A.", ".adapters.cola.adapter_down.0.")
        name = name.replace(".adapter.adapter_B.", ".adapters.cola.adapter_up.")
        name = name.replace("classifier.dense.", "heads.cola.1.").replace("classifier.out_proj.", "heads.cola.4.")
        (head if name.startswith("heads") else adapter)[name] = value
    hub.mkdir()
    torch.save(adapter, hub / "pytorch_adapter.bin")
    torch.save(head, hub / "pytorch_model_head.bin")
    run_here(monkeypatch, *world.flags(again), *flags, "--adapter_path", hub, "--do_eval")
    assert read_json(again / "eval_results.json")["eval_loss"] == read_json(out / "eval_results.json")["eval_loss"]
    torch.save({**adapter, "roberta.more": torch.zeros(1)}, hub / "pytorch_adapter.bin")
    with pytest.raises(UserError, match=r"roberta\.more has no place"):
        run_here(monkeypatch, *world.flags(tmp_path / "x"), *flags, "--adapter_path", hub, "--do_eval")


@pytest.mark.slow
def test_half_precision_weights_train_in_float32(world, tmp_path, monkeypatch):
    """DeBERTa-v2-xxlarge is published in float16; its optimiser needs float32 masters."""
    base = tmp_path / "half"
    AutoModelForSequenceClassification.from_pretrained(world.base).half().roberta.save_pretrained(base)
    AutoTokenizer.from_pretrained(world.base).save_pretrained(base)
    assert {value.dtype for value in load_file(base / "model.safetensors").values()} == {torch.float16}
    out = tmp_path / "out"
    run_here(
        monkeypatch,
        *world.flags(out),
        "--model_name_or_path",
        base,
        "--apply_bitfit",
        *train_flags(epochs=1),
        "--save_full_model",
    )
    full = torch.load(out / "pytorch_model.bin", weights_only=True)
    assert {value.dtype for value in full.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--group_by_length"], ["--bf16"], ["--gradient_checkpointing"]])
def test_other_ways_to_train_work_with_lora(flags, world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=1), *flags)
    tensors = read_trained(out).tensors
    assert all(bool(value.any()) for name, value in tensors.items() if name.endswith("lora_B"))
    assert {value.dtype for value in tensors.values()} == {torch.float32}


@pytest.mark.slow
def test_examples_of_the_hub_are_those_of_the_official_files(world, tmp_path, monkeypatch):
    """The hub has label ids and -1 in its test split; scores and files come out the same."""
    rows = [{"sentence": text, "label": label, "idx": i} for i, (text, label) in enumerate(sentences(160, 0))]
    dev = [{"sentence": text, "label": label, "idx": i} for i, (text, label) in enumerate(sentences(60, 1))]
    hub = {"train": rows, "validation": dev, "test": [{**row, "label": -1} for row in dev]}
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **_: asked.append(names) or hub)
    out, local = tmp_path / "hub", tmp_path / "local"
    flags = ["--model_name_or_path", world.base, "--task_name", "cola", "--max_seq_length", 32]
    train = [*lora_flags(), *train_flags(), "--do_eval"]
    run_here(monkeypatch, *flags, "--output_dir", out, *train, "--do_predict")
    run_here(monkeypatch, *world.flags(local), *train)
    assert asked == [("nyu-mll/glue", "cola")]
    assert read_json(out / "eval_results.json")["eval_loss"] == read_json(local / "eval_results.json")["eval_loss"]
    assert len(predictions_of(out / "test_results_cola.txt")) == 60


def test_a_hub_out_of_reach_is_one_line_that_names_the_way_out(world, tmp_path, monkeypatch):
    def unreachable(*names, **options):
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    flags = ["--model_name_or_path", world.base, "--task_name", "cola", "--output_dir", tmp_path / "out"]
    with pytest.raises(UserError, match=r"could not be loaded from the hub \(no route to host\); give the official"):
        run_here(monkeypatch, *flags, *lora_flags(), *train_flags())
