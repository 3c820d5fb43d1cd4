"""The small programs: cutting LoRA out of complete checkpoints, names from before the release, official data."""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections import OrderedDict

import download_glue_data as glue_data
import pytest
import torch
from glue.checkpoint import read_trained
from glue.sources import from_folder
from glue.tasks import TASKS

from examples.common.errors import UserError
from tests.nlu.world import lora_flags, run_here, train_flags
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

UTILS = REPOSITORY / "examples/NLU/utils"


def program(name, *words):
    return subprocess.run(
        [PYTHON, str(UTILS / name), *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_what_is_cut_out_of_a_complete_checkpoint_is_what_a_run_saves(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_here(monkeypatch, *world.flags(out), *lora_flags(), *train_flags(epochs=1), "--save_full_model")
    result = program("split_lora.py", out / "pytorch_model.bin", tmp_path / "a/b/lora.bin")
    assert result.returncode == 0, result.stderr
    cut, saved = torch.load(tmp_path / "a/b/lora.bin", weights_only=True), read_trained(out).tensors
    assert type(cut) is OrderedDict and list(cut) == list(saved)
    assert all(torch.equal(cut[name], saved[name]) for name in saved)
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(saved)
    assert (tmp_path / "a/b/lora.bin").stat().st_size < (out / "pytorch_model.bin").stat().st_size / 2


OLD = "deberta.encoder.layer.0.attention.self"


def old_checkpoint(path):
    names = [
        f"{OLD}.query_proj.weight",
        f"{OLD}.query_lora_a.weight",
        f"{OLD}.value_lora_b.weight",
        "pooler.dense.weight",
        "classifier.bias",
    ]
    torch.save(OrderedDict((name, torch.full((2,), float(i))) for i, name in enumerate(names)), path)


def test_names_from_before_the_release_are_converted(tmp_path):
    old_checkpoint(tmp_path / "old.bin")
    assert program("convert.py", tmp_path / "old.bin", tmp_path / "new.bin").returncode == 0
    new = torch.load(tmp_path / "new.bin", weights_only=True)
    assert list(new) == [
        f"{OLD}.query_proj.weight",
        f"{OLD}.query_proj.lora_A",
        f"{OLD}.value_proj.lora_B",
        "pooler.dense.weight",
        "classifier.bias",
    ]
    assert [value[0].item() for value in new.values()] == [0, 1, 2, 3, 4]
    assert program("split_lora.py", tmp_path / "old.bin", tmp_path / "lora.bin").returncode == 0
    assert list(torch.load(tmp_path / "lora.bin", weights_only=True)) == list(new)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["split_lora.py", "convert.py"])
def test_wrong_files_end_in_one_line(name, tmp_path):
    (tmp_path / "bad.bin").write_bytes(b"no weights")
    for source, message in (("none.bin", "does not exist"), ("bad.bin", "not a file of weights")):
        result = program(name, tmp_path / source, tmp_path / "out.bin")
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out.bin").exists()
    result = program(name, tmp_path / "bad.bin", tmp_path / "bad.bin")
    assert result.returncode == 2 and "would be written, but it is an input too" in result.stderr


def test_a_checkpoint_without_lora_is_refused(tmp_path):
    torch.save({"roberta.x": torch.zeros(1), "classifier.bias": torch.zeros(1)}, tmp_path / "x.bin")
    result = program("split_lora.py", tmp_path / "x.bin", tmp_path / "out.bin")
    assert result.returncode == 2 and "holds no LoRA weights" in result.stderr


# --- official data, from a server that the test plays ----------------------------------------------------------------


def test_an_archive_becomes_a_folder_that_the_program_reads(tmp_path, capsys):
    def fetch(url, target):
        assert url.endswith("/RTE.zip")
        with zipfile.ZipFile(target, "w") as archive:
            row = "0\tA.\tB.\tentailment\n"
            archive.writestr("RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n" + row * 2490)
            archive.writestr("RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n" + row * 276)
            archive.writestr("RTE/test.tsv", "index\tsentence1\tsentence2\n" + "0\tA.\tB.\n" * 3000)
            archive.writestr("__MACOSX/RTE/train.tsv", "junk")
            archive.writestr("RTE/original/train.tsv", "junk")

    glue_data.get_task("RTE", tmp_path / "data", fetch)
    assert capsys.readouterr().err == "warning: RTE: dev.tsv holds 276 examples, not 277\n"
    assert sorted(path.name for path in (tmp_path / "data/RTE").iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["RTE"]
    rows = from_folder(str(tmp_path / "data"), TASKS["rte"], ["train", "test"]).splits
    assert len(rows["train"]) == 2490 and rows["test"][0] == {"sentence1": "A.", "sentence2": "B."}


def test_mrpc_is_divided_by_the_list_of_dev_pairs(tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    texts = {
        "train": header + "".join(f"{i % 2}\t{i}\t{i + 100}\tA{i}.\tB{i}.\r\n" for i in range(5)),
        "test": header + "1\t7\t8\tC.\tD.\r\n",
    }

    def fetch(url, target):
        if "dev_ids" in url:
            target.write_text("1\t101\n3\t103\n", encoding="utf-8")
        else:
            target.write_bytes(texts["train" if "train" in url else "test"].encode())

    glue_data.get_task("MRPC", tmp_path, fetch)
    splits = from_folder(str(tmp_path), TASKS["mrpc"], ["train", "validation", "test"]).splits
    assert [row["sentence1"] for row in splits["train"]] == ["A0.", "A2.", "A4."]
    assert [row["sentence1"] for row in splits["validation"]] == ["A1.", "A3."]
    assert splits["validation"][0]["label"] == "equivalent"
    assert splits["test"] == [{"sentence1": "C.", "sentence2": "D."}]


HEADER = "index\tsentence1\tsentence2\tlabel\n"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (None, "did not give a zip archive"),
        ({"../train.tsv": "x"}, "'../train.tsv' would be written outside its folder"),
        ({"/tmp/train.tsv": "x"}, "'/tmp/train.tsv' would be written outside its folder"),
        ({"WNLI/train.tsv": "x", "train.tsv": "y"}, "WNLI.zip holds train.tsv twice"),
        ({"WNLI/train.tsv": HEADER, "WNLI/dev.tsv": HEADER}, "the download holds no test.tsv"),
        ({"WNLI/train.tsv": "x" * (1 << 20)}, "train.tsv would have 1,048,576 bytes; it is no text"),
    ],
    ids=["html", "above", "absolute", "twice", "incomplete", "bomb"],
)
def test_an_archive_that_does_not_fit_leaves_nothing_behind(tmp_path, monkeypatch, members, message):
    monkeypatch.setattr(glue_data, "MOST_BYTES", 1 << 16)

    def fetch(url, target):
        if members is None:
            return target.write_bytes(b"<html>")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(name, text)

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text("mine")
    with pytest.raises(UserError, match=re.escape(message)):
        glue_data.get_task("WNLI", tmp_path / "data", fetch)
    assert [path.read_text() for path in (tmp_path / "data").iterdir()] == ["mine"]


def test_every_file_is_checked_by_its_published_size_and_digest(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(glue_data.downloads, "fetch", asked.append)
    addresses = [*glue_data.ARCHIVES.values(), glue_data.DEV_IDS, *map(glue_data.PARAPHRASES.format_map, SPLITS)]
    for url in addresses:
        glue_data.fetch(url, tmp_path / "x")
    assert [download.url for download in asked] == addresses and {*addresses} == {*glue_data.PUBLISHED}
    assert all(len(download.sha256) == 64 and download.most_bytes > 0 for download in asked)


SPLITS = ({"split": "train"}, {"split": "test"})


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="--tasks ABC: choose from all, CoLA"):
        glue_data.main(["--tasks", "CoLA", "ABC"])
