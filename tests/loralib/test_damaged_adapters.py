"""Whatever an adapter folder holds, loading it ends soon, and with at most one line that names the file and the key."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import loralib
from loralib.files.config import compiled, looked_up
from tests.loralib.models import filled
from tests.loralib.test_adapter_folder import changed, config_of, refuse_load, saved

CONFIG, TENSORS, OLD = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"q": nn.Linear(4, 4), "qkv": nn.Linear(4, 12), "e": nn.Embedding(5, 4), "norm": nn.LayerNorm(4)}
    )


def small_with_lora() -> nn.Module:
    return filled(loralib.apply_lora(small(), ["q", "qkv", "e"], 2, 4, enable_lora={"qkv": [True, False, True]}))


def small_adapter(folder: Path) -> Path:
    return saved(folder, small_with_lora())


def with_header(folder: Path, text: str) -> Path:
    save_file(load_file(folder / TENSORS), folder / TENSORS, {"loralib": text})
    return folder


def as_bin(folder: Path, content: object) -> Path:
    (folder / TENSORS).unlink(missing_ok=True)
    torch.save(content, folder / OLD)
    return folder


# --- config ----------------------------------------------------------------------------------------------------------

WRONG = {
    "r": ["8", [8], 0, -1, True, 8.5, 1e400, 2**40],
    "lora_alpha": ["16", float("nan"), float("inf"), 10**400, True, [1]],
    "lora_dropout": ["0.1", 1.5, -0.1, float("nan"), {}],
    "bias": [3, "some", ["all"], True],
    "modules_to_save": ["classifier", [1], {"a": 1}, [""], 7],
    "rank_pattern": [[], "q", 3, {"q": "2"}, {"q": 0}, {"q": True}, {"q": None}, {"(": 2}],
    "alpha_pattern": [[["q", 1]], {"q": "1"}, {"q": float("nan")}, {"q": [1]}, {"*": 2}],
    "use_rslora": [1, "yes", []],
    "peft_type": [None, 3, ["LORA"], {}],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_named(tmp_path, key):
    small_adapter(tmp_path)
    before = config_of(tmp_path)
    for value in WRONG[key]:
        changed(tmp_path, **{**before, key: value})
        refuse_load(small(), tmp_path, f"{CONFIG}: {key}")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{", '{"peft_type": "LORA", "r":}', "[" * 100_000, "\x00" * 99]
)
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    (small_adapter(tmp_path) / CONFIG).write_text(text)
    refuse_load(small(), tmp_path, f"{CONFIG}: ")


def test_a_config_in_another_encoding_or_of_gigabytes_is_refused(tmp_path):
    (small_adapter(tmp_path) / CONFIG).write_bytes(b"\xff\xfe{}")
    refuse_load(small(), tmp_path, f"{CONFIG}: 'utf-8' codec can't decode")
    with (tmp_path / CONFIG).open("wb") as stream:
        stream.truncate(2**33)  # no bytes on the disk
    refuse_load(small(), tmp_path, f"{CONFIG}: is larger than 16,777,216 bytes")


CATASTROPHIC = [
    r"(a+)+",
    r"(.*)*x",
    r"(.|.)*x",
    r"(\w+\.?)+!",
    r"(a|a){1,99}",
    r".*.*.*.*.*.*!",
    r".+.+.+.+.+.+!",
    r"\w*\w*\w*\w*\w*!",
    "(?:a|b|.)" * 20,
    "a?" * 40 + "a" * 40,
    "(" * 300 + "a" + ")?" * 300,
    r"(.*)\1\1x",
    r"(?=.*a).*",
    r"(?P<x>a)",
    "([)a-z]|.)" * 30 + "!",
    "(" + "|" * 99 + ")(" + "|" * 99 + ")(" + "|" * 99 + ")!",
    "x" * 2000,
    "a{99999999999999}",
]


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_a_pattern_that_can_take_for_ever_is_refused(tmp_path, name, pattern):
    changed(small_adapter(tmp_path), **{name: {pattern: 2}})
    refuse_load(small(), tmp_path, f"{CONFIG}: {name}: ")


def test_very_many_patterns_are_refused(tmp_path):
    changed(small_adapter(tmp_path), rank_pattern={f"{i}.*x.*": 2 for i in range(1000)})
    refuse_load(small(), tmp_path, f"{CONFIG}: rank_pattern: .* could take long to match")


@pytest.mark.parametrize(
    ("pattern", "name", "match"),
    [
        ("q_proj", "model.layers.0.q_proj", True),
        ("q_proj", "model.layers.0.myq_proj", False),
        ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", True),
        (r"layers\.\d+\.q_proj", "model.layers.11.q_proj", True),
        ("^model.x", "model.x", True),
        ("^model.x", "a.model.x", False),
        (r".*\.layer\.1\..*query", "roberta.encoder.layer.1.attention.self.query", True),
        (r"model\.layers\.(0|1|2|3|4|5|6|7|8|9|10|11)\..*(q|k|v)_proj", "model.layers.11.self_attn.v_proj", True),
        (r"^.*layers\.\d+\..*_proj$", "model.layers.3.mlp.up_proj", True),
        (r"h\.[0-5]\.attn\.c_(attn|proj)", "transformer.h.5.attn.c_proj", True),
        (r"blocks\.\d{1,2}\.(mlp|attn)\.fc(1|2)?", "model.blocks.7.mlp.fc", True),
        (r".*?layers\.(" + "|".join(map(str, range(32))) + r")\..*?(q|k|v|o)_proj", "layers.31.attn.o_proj", True),
        (r"experts\.\d+\.(?:up|down)_proj[()*+|]*", "layers.3.experts.12.up_proj", True),
    ],
)
@pytest.mark.slow
def test_usual_patterns_mean_what_they_mean_to_peft(pattern, name, match):
    from peft.utils.other import get_pattern_key

    assert looked_up(compiled({pattern: 1}), name, 0) == int(match)
    assert (get_pattern_key([pattern], name) == pattern) == match


# --- tensors ---------------------------------------------------------------------------------------------------------


OTHER_FILES = [b"", b"\x00", b"\x00" * 100, b"some text\n" * 20, b"\xff" * 64, b"PK\x03\x04" + b"a" * 99]


@pytest.mark.parametrize("name", [TENSORS, OLD])
@pytest.mark.parametrize("content", OTHER_FILES, ids=lambda content: repr(content[:9]))
def test_a_file_of_another_kind_is_refused(tmp_path, name, content):
    (small_adapter(tmp_path) / TENSORS).unlink()
    (tmp_path / name).write_bytes(content)
    refuse_load(small(), tmp_path, f"{name} is no ")


def test_a_folder_in_place_of_a_file_counts_as_no_file(tmp_path):
    for name in (TENSORS, CONFIG):
        (small_adapter(tmp_path) / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(FileNotFoundError, match=f"{CONFIG} is missing|has neither {TENSORS} nor {OLD}"):
            loralib.load_adapter(small(), tmp_path)
        (tmp_path / name).rmdir()


Q = "base_model.model.q.lora_A.weight"
NO_TENSORS = {
    "a list": (lambda tensors: list(tensors.values()), "expected a dict of tensors, got list"),
    "a number": (lambda tensors: 3, "expected a dict of tensors, got int"),
    "numbers": (lambda tensors: {**tensors, Q: 3.0}, f"{Q} is no dense tensor: float"),
    "nested": (lambda tensors: {**tensors, Q: {"weight": tensors[Q]}}, f"{Q} is no dense tensor: dict"),
    "other keys": (lambda tensors: {**tensors, 3: tensors[Q]}, f"{OLD}: 3 is no name of a tensor"),
    "two lines": (lambda tensors: {**tensors, "a\nb": tensors[Q]}, f"{OLD}: 'a.nb' is no name of a tensor"),
    "sparse": (lambda tensors: {**tensors, Q: tensors[Q].to_sparse()}, f"{Q} is no dense tensor"),
    "quantised": (
        lambda tensors: {**tensors, Q: torch.quantize_per_tensor(tensors[Q], 0.1, 0, torch.qint8)},
        f"{Q} is no dense tensor",
    ),
    "no memory": (lambda tensors: {**tensors, Q: tensors[Q].to("meta")}, f"{Q} is no dense tensor"),
    "one number": (lambda tensors: {**tensors, Q: torch.ones(1, 1).expand(2, 4)}, f"{Q} is no dense tensor"),
    "whole numbers": (lambda tensors: {**tensors, Q: tensors[Q].long()}, f"{Q} is torch.int64 .2, 4., expected floats"),
    "complex": (lambda tensors: {**tensors, Q: tensors[Q].cfloat()}, f"{Q} is torch.complex64"),
    "one dimension": (lambda tensors: {**tensors, Q: tensors[Q].flatten()}, f"{Q} is torch.float32 .8,., expected"),
    "a scalar": (lambda tensors: {**tensors, Q: torch.tensor(1.0)}, f"{Q} is torch.float32 .., expected"),
    "empty": (lambda tensors: {**tensors, Q: torch.ones(2, 0)}, f"{Q} is torch.float32 .2, 0., expected"),
    "a norm": (
        lambda tensors: {f"base_model.model.norm.lora_{x}.weight": torch.ones(2, 2) for x in "AB"},
        "norm is a torch.nn.modules.normalization.LayerNorm, which LoRA cannot adapt",
    ),
    "nothing": (lambda tensors: {}, "does not fit the model: its file has no LoRA factors"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", NO_TENSORS)
def test_content_other_than_float_tensors_is_refused(tmp_path, case):
    content, message = NO_TENSORS[case]
    tensors = load_file(small_adapter(tmp_path) / TENSORS)
    changed(as_bin(tmp_path, content(tensors)), rank_pattern={"qkv": 4}, r=2)
    refuse_load(small(), tmp_path, message)


def test_a_rank_of_billions_takes_no_memory(tmp_path):
    changed(small_adapter(tmp_path), r=10**9, rank_pattern={})
    refuse_load(small(), tmp_path, "expected floats of rank 1000000000")
    tensors = {Q: torch.ones(10**9, 0), Q.replace("_A", "_B"): torch.ones(0, 10**9)}
    save_file(tensors, tmp_path / TENSORS)
    refuse_load(small(), tmp_path, "is torch.float32 .* expected floats of rank 1000000000")


HEADERS = ["", "no JSON", "[]", "{}", "[" * 99_999]
HEADERS += ['{"layers": {}}', '{"layers": [], "base": {}}', '{"layers": 1, "base": 2}']
RECORDS = [3, {}, {"r": "2"}, {"r": 2}, {"r": 2, "lora_alpha": "4"}, {"r": 2, "lora_alpha": 4, "a": 1}]
BLOCKS = [("ab", "cd"), ([1, 0], [1, 1]), ([True], [1, 2]), ([False], [4]), ([True], [-4]), ({"a": 1}, [2])]
RECORDS += [{"r": 1, "lora_alpha": 4, "enable_lora": enabled, "block_sizes": sizes} for enabled, sizes in BLOCKS]


@pytest.mark.parametrize("text", HEADERS, ids=lambda text: text[:9])
def test_a_header_of_another_form_is_refused(tmp_path, text):
    refuse_load(small(), with_header(small_adapter(tmp_path), text), f"{TENSORS}: loralib in the header: ")


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_record_of_another_form_is_refused(tmp_path, record):
    text = json.dumps({"layers": {"q": record}, "base": {}})
    refuse_load(small(), with_header(small_adapter(tmp_path), text), f"{TENSORS}: loralib in the header: expected rank")


BASES = [{"q.weight": 3}, {"q.weight": {"float32": 3}}, {"q.weight": ["a"]}, {"q.weight\n": {"float32": "a"}}]


@pytest.mark.parametrize("base", BASES, ids=str)
def test_digests_of_another_form_are_refused(tmp_path, base):
    text = json.dumps({"layers": {}, "base": base})
    folder = with_header(small_adapter(tmp_path), text)
    refuse_load(small(), folder, "loralib in the header: base: expected digests of 'q.weight")


def test_blocks_that_do_not_fit_the_layer_are_refused(tmp_path):
    for sizes in ([4, 4], [4, 4, 3], [4, 4, 4, 4]):
        record = {"r": 4 // (len(sizes) - 1), "lora_alpha": 4, "enable_lora": [True] * (len(sizes) - 1) + [False]}
        layers = {"qkv": {**record, "block_sizes": sizes}}
        with_header(changed(small_adapter(tmp_path), lora_alpha=8), json.dumps({"layers": layers, "base": {}}))
        refuse_load(small(), tmp_path, "qkv")


# --- anything --------------------------------------------------------------------------------------------------------

ODD_NUMBERS = [None, True, 0, -1, 2, 8, 0.5, 1e300, 10**400, float("nan"), float("inf")]
ODD_TEXTS = ["", "8", "q", "a\nb", "\ud800", "x" * 5000]
ODD_LISTS = [
    [],
    {},
    [1],
    ["q"],
    [[[[[]]]]],
    {"q": 1},
    {"q": [1]},
    {"(a+)+": 2},
    {".*": 2, "q": 4},
    {"": 1},
    {"a": {"b": {}}},
]
VALUES = [*ODD_NUMBERS, *ODD_TEXTS, *ODD_LISTS]
CHANGES = [b"", b'"', b"9" * 9, b"{", b"[", b"\n", b"null", b"e400", b"\x00", b"\xff", b"a"]


@pytest.mark.slow
def test_no_mutation_of_a_folder_ends_in_anything_but_one_line(tmp_path):
    """2,200 seeded mutations of config, header and bytes; a few of them load."""
    draw = random.Random(0)
    small_adapter(tmp_path)
    config, tensors, adapted = config_of(tmp_path), load_file(tmp_path / TENSORS), small_with_lora()
    text, data = (tmp_path / CONFIG).read_text(), (tmp_path / TENSORS).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["loralib"]
    torch.save(OrderedDict(tensors), tmp_path / OLD)
    old = (tmp_path / OLD).read_bytes()
    loaded = 0

    def outcome():
        nonlocal loaded
        try:
            loralib.load_adapter(small() if draw.random() < 0.05 else adapted, tmp_path)
            loaded += 1
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 8_000, error

    def mutated(content):
        """Bytes changed, put in, or cut off at a few places."""
        content = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(min(len(content), draw.choice([50, 500, 5000, 10**6])))
            content[at : at + draw.randint(0, 3)] = draw.choice(CHANGES)
        return bytes(content[: draw.randrange(1, len(content))] if draw.random() < 0.1 else content)

    for _ in range(1000):
        keys = [*config, "use_rslora", "use_dora", "target_parameters", "layer_replication"]
        wrong = {draw.choice(keys): draw.choice(VALUES) for _ in range(draw.randint(1, 3))}
        (tmp_path / CONFIG).write_text(json.dumps({**config, **wrong}))
        outcome()
    for _ in range(300):
        (tmp_path / CONFIG).write_bytes(mutated(text.encode()))
        outcome()
    (tmp_path / CONFIG).write_text(text)
    for _ in range(300):
        with_header(tmp_path, mutated(header.encode()).decode("utf-8", errors="replace"))
        outcome()
    for _ in range(300):
        (tmp_path / TENSORS).write_bytes(mutated(data))
        outcome()
    (tmp_path / TENSORS).unlink()
    for _ in range(300):
        (tmp_path / OLD).write_bytes(mutated(old))
        outcome()
    assert 100 < loaded < 2000
