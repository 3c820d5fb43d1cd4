"""The script from raw files to token ids: every data set and split, what is absent, what is broken."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from examples.common.files import sha256_of
from tests.nlg.data.programs import DATA, NLG, assert_one_error_line, run
from tests.nlg.data.xml_twins import benchmark, dart_entries, webnlg_entries
from tests.shared_data import shared_path

RAW = {
    "e2e": ("e2e_edge", {"train": "train.txt", "valid": "valid.txt", "test": "test.txt"}),
    "webnlg_challenge_2017": ("webnlg_synth", {"train": "train.json", "valid": "dev.json", "test": "test.json"}),
    "dart": (
        "dart_synth",
        {
            split: f"dart-v1.1.1-full-{raw}.json"
            for split, raw in [("train", "train"), ("valid", "dev"), ("test", "test")]
        },
    ),
}


REAL = {
    "e2e/valid": "data/e2e/lora_format/valid.txt.gz",
    "e2e/test": "data/e2e/lora_format/test.txt.gz",
    "webnlg_challenge_2017/valid": "data/webnlg/dev.json.gz",
    "dart/valid": "data/dart/dart-v1.1.1-full-dev.json.gz",
}


@pytest.fixture
def folder(tmp_path, toy_vocabulary):
    """Stands for examples/NLG, with a vocabulary and no data yet."""
    shutil.copytree(toy_vocabulary, tmp_path / "vocab")
    return tmp_path


def add_raw(folder, dataset, splits=("train", "valid", "test")) -> None:
    source, names = RAW[dataset]
    (folder / "data" / dataset).mkdir(parents=True)
    for split in splits:
        shutil.copy(DATA / f"{source}.{names[split].rpartition('.')[2]}", folder / "data" / dataset / names[split])


@pytest.mark.slow
def test_all_splits_of_all_data_sets_become_token_ids(folder, toy_bpe):
    for dataset in RAW:
        add_raw(folder, dataset)
    result = run("create_datasets.sh", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "script complete!"
    for dataset, (source, _) in RAW.items():
        for split in ("train", "valid", "test"):
            made = folder / "data" / dataset / f"{split}_formatted.jsonl"
            assert made.read_bytes() == (DATA / f"{source}_formatted.jsonl").read_bytes()
            texts = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
            rows = [json.loads(line) for line in (made.parent / f"{split}.jsonl").read_text().splitlines()]
            assert [toy_bpe.decode(row["context"]) for row in rows] == [t["context"] + "<|endoftext|>" for t in texts]
            assert [toy_bpe.decode(row["completion"]) for row in rows] == [
                f" {t['completion']}<|endoftext|>" for t in texts
            ]
            assert {row[part][-1] for row in rows for part in row} == {toy_bpe.end_of_text}


@pytest.mark.slow
def test_the_real_files_get_the_released_bytes(tmp_path):
    """Everything that is at hand of the real sets: token ids and formatted rows with their recorded checksums."""
    (tmp_path / "vocab").symlink_to(shared_path("data/gpt2_vocab"))
    for name, raw in REAL.items():
        to = tmp_path / "data" / name.split("/")[0] / raw.split("/")[-1].removesuffix(".gz")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(gzip.decompress(shared_path(raw).read_bytes()))
    assert run("create_datasets.sh", cwd=tmp_path).returncode == 0
    checksums = json.loads((DATA / "full_file_checksums.json").read_text(encoding="utf-8"))
    for name in REAL:
        made = {
            part: tmp_path / "data" / f"{name}{end}.jsonl" for part, end in (("bpe", ""), ("formatted", "_formatted"))
        }
        assert {part: sha256_of(path) for part, path in made.items()} == {
            part: checksums[name][f"{part}_sha256"] for part in made
        }


@pytest.mark.slow
def test_named_data_sets_alone_are_made(folder):
    add_raw(folder, "e2e")
    add_raw(folder, "dart")
    assert run("create_datasets.sh", "dart", cwd=folder).returncode == 0
    assert (folder / "data" / "dart" / "train.jsonl").exists()
    assert not (folder / "data" / "e2e" / "train.jsonl").exists()


def test_absent_splits_are_skipped_and_said_so(folder):
    add_raw(folder, "e2e", splits=["valid"])
    result = run("create_datasets.sh", cwd=folder)
    assert result.returncode == 0
    assert "skipped e2e train: data/e2e/train.txt is absent" in result.stdout
    assert result.stdout.count("skipped") == 8
    assert (folder / "data" / "e2e" / "valid.jsonl").exists()


@pytest.mark.slow
def test_xml_stands_in_for_json(folder):
    add_raw(folder, "dart", splits=["valid"])
    add_raw(folder, "webnlg_challenge_2017", splits=["valid"])
    json_made = {}
    assert run("create_datasets.sh", cwd=folder).returncode == 0
    for dataset, (source, names) in RAW.items():
        if dataset == "e2e":
            continue
        home = folder / "data" / dataset
        json_made[dataset] = [(home / f"valid{end}.jsonl").read_bytes() for end in ("", "_formatted")]
        data = json.loads((DATA / f"{source}.json").read_text(encoding="utf-8"))
        shutil.rmtree(home)
        home.mkdir()
        if dataset == "dart":
            (home / names["valid"].replace(".json", ".xml")).write_text(benchmark(dart_entries(data)), encoding="utf-8")
        else:  # a folder of files, as WebNLG is published
            (home / "dev" / "1triples").mkdir(parents=True)
            (home / "dev" / "1triples" / "All.xml").write_text(benchmark(webnlg_entries(data)), encoding="utf-8")
    assert run("create_datasets.sh", cwd=folder).returncode == 0
    for dataset, made in json_made.items():
        home = folder / "data" / dataset
        assert [(home / f"valid{end}.jsonl").read_bytes() for end in ("", "_formatted")] == made


def test_raw_files_vocabulary_and_output_may_lie_anywhere(folder, tmp_path_factory):
    add_raw(folder, "dart", splits=["valid"])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    places = ["--data", folder / "data" / "dart", "--vocab", folder / "vocab", "--out", "new/tokens"]
    assert run("create_datasets.sh", *places, "dart", cwd=elsewhere).returncode == 0
    assert {path.name for path in (elsewhere / "new" / "tokens").iterdir()} == {"valid.jsonl", "valid_formatted.jsonl"}
    assert len(list((folder / "data" / "dart").iterdir())) == 1


def test_options_without_sense_are_refused(folder):
    assert_one_error_line(run("create_datasets.sh", "--data", cwd=folder), "--data needs a value")
    assert_one_error_line(run("create_datasets.sh", "--x", cwd=folder), "no option --x: expected --data")
    assert_one_error_line(run("create_datasets.sh", "--out", "x", cwd=folder), "belong to one data set: name it")


def test_nothing_to_do_is_an_error(folder):
    assert_one_error_line(run("create_datasets.sh", cwd=folder), "no raw file found below data/")
    assert_one_error_line(run("create_datasets.sh", "e3e", cwd=folder), "no data set e3e: expected e2e")


def test_a_missing_vocabulary_is_an_error(tmp_path):
    assert_one_error_line(run("create_datasets.sh", cwd=tmp_path), "no folder vocab here: run this in examples/NLG")


@pytest.mark.slow
def test_a_broken_raw_file_stops_the_script(folder):
    add_raw(folder, "e2e")
    (folder / "data" / "e2e" / "valid.txt").write_text("broken\n")
    result = run("create_datasets.sh", cwd=folder)
    assert_one_error_line(result, "data/e2e/valid.txt line 1: expected")
    assert "script complete!" not in result.stdout
    assert {path.name for path in (folder / "data" / "e2e").glob("valid*")} == {"valid.txt"}


def test_a_script_that_is_stopped_stops_its_program(folder):
    add_raw(folder, "e2e")
    python = folder / "python"
    python.write_text(
        f'#!/bin/bash\necho $$ > pid.new && mv pid.new pid && exec {sys.executable} -c "import time; time.sleep(9e3)"\n'
    )
    python.chmod(0o755)
    script = subprocess.Popen(
        ["bash", str(NLG / "create_datasets.sh")], cwd=folder, env={**os.environ, "PYTHON": str(python)}
    )
    while not (folder / "pid").exists():
        assert script.poll() is None
        time.sleep(0.01)
    script.send_signal(signal.SIGTERM)
    assert script.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)
    assert not [path for path in (folder / "data" / "e2e").iterdir() if path.suffix == ".jsonl"]


def test_what_a_killed_program_left_is_removed_at_the_next_start(folder):
    add_raw(folder, "e2e", splits=["valid"])
    for name in ("valid_formatted.jsonl", "valid.jsonl"):
        (folder / "data" / "e2e" / f".{name}.0a_3bcde.partial").write_text("{")
    assert run("create_datasets.sh", "e2e", cwd=folder).returncode == 0
    names = {path.name for path in (folder / "data" / "e2e").iterdir()}
    assert names == {"valid.txt", "valid_formatted.jsonl", "valid.jsonl"}
