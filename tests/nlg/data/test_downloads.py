"""Where the published files are fetched from and put, and the program that fetches them, from a loopback server."""

from __future__ import annotations

import pytest
from text.sources import ALL, DEFAULT, REPOSITORY_FILES, WEIGHTS, downloads_of

from examples.common.downloads import git_blob_id
from tests.common.loopback import CONTENT, SHA256
from tests.nlg.data.programs import NLG, assert_one_error_line, run
from tests.shared_data import shared_path


def test_published_blob_ids_are_those_of_the_real_files():
    for name in ("encoder.json", "vocab.bpe"):
        _, blob = REPOSITORY_FILES["vocab"][f"vocab/{name}"]
        assert git_blob_id(shared_path(f"data/gpt2_vocab/{name}")) == blob


def test_addresses_and_places_are_the_published_ones(tmp_path):
    (weights,) = downloads_of("gpt2-medium", tmp_path)
    assert weights.url == "https://huggingface.co/openai-community/gpt2-medium/resolve/main/pytorch_model.bin"
    assert weights.path == tmp_path / "pretrained_checkpoints" / "gpt2-medium-pytorch_model.bin"
    (weights,) = downloads_of("gpt2", tmp_path, weight_format="safetensors", revision="abc", hub_url="http://h/")
    assert weights.url == "http://h/openai-community/gpt2/resolve/abc/model.safetensors"
    assert weights.path.name == "gpt2-model.safetensors"
    e2e = downloads_of("e2e", tmp_path)
    assert [d.path.relative_to(tmp_path).as_posix() for d in e2e] == [
        f"data/e2e/{s}.txt" for s in ("train", "valid", "test")
    ]
    assert all(d.url.startswith("https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a") for d in e2e)


def test_the_default_fetches_what_the_datasets_script_and_the_model_cards_read(tmp_path):
    paths = {d.path.relative_to(tmp_path).as_posix() for name in DEFAULT for d in downloads_of(name, tmp_path)}
    script = (NLG / "create_datasets.sh").read_text(encoding="utf-8")
    assert set(WEIGHTS) <= set(DEFAULT) <= set(ALL)
    assert {"vocab/encoder.json", "vocab/vocab.bpe", "data/dart/dart-v1.1.1-full-dev.json"} <= paths
    for name in ("e2e", "webnlg_challenge_2017", "dart"):
        assert name in script and sum(path.startswith(f"data/{name}/") for path in paths) == 3


@pytest.mark.slow
def test_the_script_fetches_into_the_current_folder(server, tmp_path):
    vocabulary = shared_path("data/gpt2_vocab")
    for path, (address, _) in REPOSITORY_FILES["vocab"].items():
        server.files[f"/{address}"] = (vocabulary / path.removeprefix("vocab/")).read_bytes()
    weights = "/openai-community/gpt2/resolve/main/pytorch_model.bin"
    server.files[weights], server.etags[weights] = CONTENT, SHA256
    servers = ["--hub-url", server.url, "--github-url", server.url]
    result = run("download_pretrained_checkpoints.sh", "vocab", "gpt2", *servers, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 3 and SHA256 in result.stdout
    assert (tmp_path / "pretrained_checkpoints" / "gpt2-pytorch_model.bin").read_bytes() == CONTENT
    assert (tmp_path / "vocab" / "vocab.bpe").read_bytes() == (vocabulary / "vocab.bpe").read_bytes()


def test_the_program_ends_with_one_line_and_code_2(server, tmp_path):
    result = run("download.py", "gpt2", "--hub-url", server.url, "--folder", tmp_path)
    assert_one_error_line(result, "resolve/main/pytorch_model.bin: the server answered 404")
    assert_one_error_line(run("download.py", "gpt3"), "cannot download gpt3: expected names out of vocab, e2e")
