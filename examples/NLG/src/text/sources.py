"""Where the published files are: GPT-2's weights and vocabulary, and the data sets as the released code has them."""

from __future__ import annotations

from pathlib import Path

from examples.common.downloads import Download, HubFile

HUB_URL = "https://huggingface.co"
GITHUB_URL = "https://raw.githubusercontent.com"
WEIGHT_FILES = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}
WEIGHTS = ("gpt2", "gpt2-medium", "gpt2-large")

_RELEASED = "microsoft/LoRA/c4593f060e6a368d7bb5af5273b8e42810cdef90/examples/NLG"
_E2E = "tuetschek/e2e-dataset/ab0d967dd5729ce455ef14ba9ffafc456a335264"

# set: {path from examples/NLG: (address below GITHUB_URL, git blob id)}
REPOSITORY_FILES: dict[str, dict[str, tuple[str, str]]] = {
    "vocab": {
        path: (f"{_RELEASED}/{path}", blob)
        for path, blob in {
            "vocab/encoder.json": "1f1d9aaca301414e7f6c9396df506798ff4eb9a6",
            "vocab/vocab.bpe": "226b0752cac7789c48f0cb3ec53eda48b7be36cc",
        }.items()
    },
    "e2e": {
        path: (f"{_RELEASED}/{path}", blob)
        for path, blob in {
            "data/e2e/train.txt": "2f92a2790c00a48574dcc89465a326f33d7e7cc6",
            "data/e2e/valid.txt": "94f87112e11198710d65a1d5dc7d0b8d9155a07d",
            "data/e2e/test.txt": "084da9f4409d98058bcb020614afa83824440484",
        }.items()
    },
    "webnlg_challenge_2017": {
        path: (f"{_RELEASED}/{path}", blob)
        for path, blob in {
            "data/webnlg_challenge_2017/train.json": "461766d1fe902bd659b821a03f49310c22403686",
            "data/webnlg_challenge_2017/dev.json": "180f096ff49a7e597dd7c507ea0c5441e839b770",
            "data/webnlg_challenge_2017/test.json": "7f552799b7e3b5badf95b725c20d955e0886811e",
        }.items()
    },
    "dart": {
        path: (f"{_RELEASED}/{path}", blob)
        for path, blob in {
            "data/dart/dart-v1.1.1-full-train.json": "66d6ce4aeb5d01c318c7fc15d7747ef39ea320be",
            "data/dart/dart-v1.1.1-full-dev.json": "e3a7a497677e7edd9c45a3aaadb3ab8fd5493f75",
            "data/dart/dart-v1.1.1-full-test.json": "c3de833701dcd475ff3bf0b72cd96e13aeeb6b68",
        }.items()
    },
    "e2e-csv": {
        f"data/e2e/{name}": (f"{_E2E}/{name}", blob)
        for name, blob in {
            "trainset.csv": "fa3a5e1124d2aa0d768881e38f8ee73e63d5880d",
            "devset.csv": "c45950a0771c769d787a33fdf56439cb890005d7",
            "testset_w_refs.csv": "86733864c96dc18cbaa5f18042356296ef679302",
        }.items()
    },
}
ALL = (*REPOSITORY_FILES, *WEIGHTS)
DEFAULT = tuple(name for name in ALL if name != "e2e-csv")  # what the commands of the README read


def downloads_of(
    name: str,
    folder: Path,
    *,
    weight_format: str = "bin",
    revision: str = "main",
    hub_url: str = HUB_URL,
    github_url: str = GITHUB_URL,
) -> list[Download]:
    """The files of one entry of ``ALL``.

    Args:
        name: a data set, ``vocab``, or a model.
        folder: ``examples/NLG``, whose README names the paths below it.
        weight_format: a key of ``WEIGHT_FILES``; weights get the released names ``<model>-<file>``.
        revision: branch, tag or commit of the model's repository on the hub.
        hub_url, github_url: another server with the same paths.
    """
    if name in WEIGHTS:
        file = HubFile(f"openai-community/{name}", WEIGHT_FILES[weight_format], revision, hub_url.rstrip("/"))
        url = f"{file.endpoint}/{file.repository}/resolve/{revision}/{file.name}"
        return [Download(url, folder / "pretrained_checkpoints" / f"{name}-{file.name}", hub=file)]
    return [
        Download(f"{github_url.rstrip('/')}/{address}", folder / path, git_blob=blob)
        for path, (address, blob) in REPOSITORY_FILES[name].items()
    ]
