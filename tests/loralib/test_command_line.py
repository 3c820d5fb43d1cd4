"""``python -m loralib``: checkpoints reach PEFT and plain transformers with equal logits; what is wrong is one line."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from gpt2.checkpoint import load_into, save_full, save_trained
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from safetensors.torch import load_file, save_file
from torch import nn

import loralib
from loralib.__main__ import main
from loralib.files import export, merge
from tests.shared_data import REPOSITORY

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
CLOSE = {"rtol": 0, "atol": 1e-5}
LABELS = ("yes", "maybe", "no")


def run(capsys, *arguments, code: int = 0) -> str:
    """Runs a command; returns what it printed. After an error, its one line."""
    capsys.readouterr()
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        found = stop.code
    out, err = capsys.readouterr()
    assert found == code, err
    if code == 2:
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
        return err
    return out


def saved(model, folder: Path, **changes) -> Path:
    """A transformers folder of a model; ``changes`` of its config."""
    model.save_pretrained(folder, **({"max_shard_size": changes.pop("shards")} if "shards" in changes else {}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def randomized(layers) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for layer in layers:
            layer.lora_A.normal_()
            layer.lora_B.normal_()


# --- models ----------------------------------------------------------------------------------------------------------


def plain_gpt2(**changes):
    from transformers import GPT2Config as Config
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 12, "vocab_size": 31, "n_positions": 24}
    return GPT2LMHeadModel(Config(**sizes, bos_token_id=0, eos_token_id=30, initializer_range=0.3, **changes)).eval()


def train_gpt2(folder: Path) -> GPT2LMModel:
    """Makes ``base`` and the GPT-2 example's ``model.3.pt`` (LoRA only) and ``model.4.pt`` (complete); their model."""
    saved(plain_gpt2(), folder / "base")
    config = GPT2Config(vocab_size=31, n_positions=24, n_embd=12, n_layer=2, n_head=2)
    model = GPT2LMModel(config, LoRAConfig(r=2, alpha=8, dropout=0.1))
    base = load_into(model, folder / "base" / "model.safetensors")
    loralib.mark_only_lora_as_trainable(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        model.loss(IDS[:, :-1], IDS[:, 1:], torch.ones(2, 7)).backward()
        optimizer.step()
    save_trained(folder / "model.3.pt", model, base, step=3)
    save_full(folder / "model.4.pt", model, base, step=4)
    return model.eval()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with the files of ``train_gpt2``, and the model."""
    folder = tmp_path_factory.mktemp("gpt2")
    return folder, train_gpt2(folder)


def greedy(logits_of, ids: torch.Tensor, tokens: int = 12) -> list[int]:
    for _ in range(tokens):
        ids = torch.cat([ids, logits_of(ids)[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


def same_as_the_example(model: GPT2LMModel, other: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(other(IDS).logits, model(IDS)[0], **CLOSE)
        text = greedy(lambda ids: model(ids)[0], IDS[:1])
        assert greedy(lambda ids: other(ids).logits, IDS[:1]) == text
        assert other.generate(IDS[:1], max_new_tokens=12, do_sample=False, eos_token_id=None).tolist() == [text]


def train_glue(folder: Path, *tags: str):
    """Makes ``base``, a RoBERTa without head, and ``run``, a checkpoint folder of the GLUE example; its model."""
    from glue.checkpoint import Description, save_trained
    from glue.lora import add_lora
    from glue.trainable import mark_trainable
    from transformers import RobertaForSequenceClassification

    from examples.common.fsdp import trained_state_dict
    from tests.nlu.world import recorded_roberta

    torch.manual_seed(0)
    saved(recorded_roberta(initializer_range=0.3, num_labels=2).roberta, folder / "base")
    model = RobertaForSequenceClassification.from_pretrained(folder / "base", num_labels=3)
    add_lora(model, r=4, lora_alpha=16)
    mark_trainable(model, tags)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        model(IDS, labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    about = {"base": "roberta", "base_fingerprint": "0" * 64, "targets": ("query", "value"), "labels": LABELS}
    (folder / "run").mkdir()
    description = Description("+".join(tags), r=4, lora_alpha=16, **about)
    save_trained(folder / "run" / "pytorch_model_lora.bin", trained_state_dict(model), description)
    return model.eval()


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """A folder with the files of ``train_glue``, and the model."""
    folder = tmp_path_factory.mktemp("glue")
    return folder, train_glue(folder, "lora")


def llama(dtype=torch.float32, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 31, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "initializer_range": 0.3, **changes})).to(dtype).eval()


def peft_of(model, folder: Path, **config) -> nn.Module:
    """PEFT's model with LoRA whose factors are not zero, saved in ``folder``."""
    import peft

    adapted = peft.get_peft_model(
        model, peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "init_lora_weights": False, **config})
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.eval().save_pretrained(folder)
    return adapted


# --- from the examples to PEFT and to plain models -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["model.3.pt", "model.4.pt"])
def test_a_checkpoint_of_the_gpt2_example_computes_the_same_in_peft(checkpoint, gpt2, tmp_path, capsys):
    from peft import AutoPeftModelForCausalLM

    folder, model = gpt2
    out = tmp_path / "adapter"
    assert run(capsys, "export", folder / checkpoint, "--base", folder / "base", "--out", out) == f"wrote {out}\n"
    same_as_the_example(model, AutoPeftModelForCausalLM.from_pretrained(out))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 16, ["c_attn"])
    assert config["fan_in_fan_out"] and config["lora_dropout"] == 0.1
    again = loralib.load_adapter(plain_gpt2(), out)
    assert again.transformer.h[0].attn.c_attn.enable_lora == (True, False, True)
    assert "base_model" in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["model.3.pt", "model.4.pt"])
def test_a_checkpoint_of_the_gpt2_example_computes_the_same_merged(checkpoint, gpt2, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    folder, model = gpt2
    run(capsys, "merge", folder / "base", folder / checkpoint, "--out", tmp_path / "merged")
    same_as_the_example(model, GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval())
    files = {file.name for file in (tmp_path / "merged").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["with a head", "with biases", "complete"])
def test_a_checkpoint_of_the_glue_example_computes_the_same_in_peft_and_merged(trained, tmp_path, capsys):
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    model = train_glue(tmp_path, "lora", *(["bias"] if trained == "with biases" else []))
    source, given = tmp_path / "run", []
    if trained == "complete":
        source, given = tmp_path / "pytorch_model.bin", ["--alpha", 16]
        torch.save(model.state_dict(), source)
    run(capsys, "export", source, "--base", tmp_path / "base", "--out", tmp_path / "adapter", *given)
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3).eval()
    torch.testing.assert_close(theirs(IDS).logits, model(IDS).logits, **CLOSE)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier"] and config["target_modules"] == ["query", "value"]
    assert config["bias"] == ("all" if trained == "with biases" else "none")
    run(capsys, "merge", tmp_path / "base", source, "--out", tmp_path / "merged", *given)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, **CLOSE)
    assert tuple(merged.config.id2label.values()) == (LABELS if not given else ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert merged.config.architectures == ["RobertaForSequenceClassification"]


def test_export_says_what_the_user_has_to_know(glue, tmp_path, capsys):
    folder, _ = glue
    for base, note in (
        (folder / "base", "open the folder with num_labels=3"),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base is no folder, so nothing was compared with it"),
    ):
        out = tmp_path / Path(base).name
        assert main(["export", str(folder / "run"), "--base", str(base), "--out", str(out)]) == 0
        assert note in capsys.readouterr().err
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert "is no folder" in run(capsys, "export", folder / "run", "--base", "./none", "--out", tmp_path / "x", code=2)


@pytest.mark.parametrize("style", ["with a wrapper", "of the first release", "without a wrapper"])
def test_a_released_gpt2_file_needs_alpha_and_where_it_is_not_plain_the_blocks(style, gpt2, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    folder, model = gpt2
    state = torch.load(folder / "model.3.pt", weights_only=True)["model_state_dict"]
    if style == "of the first release":
        old = {}
        for name, tensor in state.items():
            stem, factor = name.removesuffix("c_attn.lora_A").removesuffix("c_attn.lora_B"), name[-1]
            for letter, half in zip("qv", tensor.chunk(2)):
                old[f"{stem}{letter}_proj_adapter{'AB'.index(factor) + 1}.weight"] = half.clone()
        state = old
    torch.save(state if style == "without a wrapper" else {"model_state_dict": state}, tmp_path / "e2e.pt")
    merge = ["merge", folder / "base", tmp_path / "e2e.pt", "--out", tmp_path / "merged"]
    if style == "without a wrapper":
        assert "which blocks of its fused layers are adapted; give --enable_lora" in run(
            capsys, *merge, "--alpha", 8, code=2
        )
        merge += ["--enable_lora", "1,0,1"]
    assert "does not say alpha; give --alpha" in run(capsys, *merge, code=2)
    run(capsys, *merge, "--alpha", 8)
    same_as_the_example(model, GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval())


def test_blocks_of_grouped_queries_are_placed_by_their_sizes(tmp_path, capsys):
    layer = loralib.MergedLinear(6, 16, r=2, lora_alpha=4, enable_lora=[True, False, True], block_sizes=[8, 4, 4])
    randomized([layer])
    (tmp_path / "base").mkdir()
    save_file({"model.qkv.weight": layer.weight.detach().contiguous()}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    torch.save({"model.qkv.lora_A": layer.lora_A, "model.qkv.lora_B": layer.lora_B}, tmp_path / "lora.pt")
    given = ["--alpha", 4, "--enable_lora", "1,0,1", "--block_sizes"]
    merge = ["merge", tmp_path / "base", tmp_path / "lora.pt", "--out", tmp_path / "merged", *given]
    assert "block_sizes must have one size for each" in run(capsys, *merge, "4,4,8,4", code=2)
    assert "lora_B (12, 2) do not fit" in run(capsys, *merge, "4,8,4", code=2)
    run(capsys, *merge, "8,4,4")
    merged = load_file(tmp_path / "merged" / "model.safetensors")["model.qkv.weight"]
    assert torch.equal(merged, layer.merged_weight)


def test_deberta_is_exported_merged_only_and_then_computes_the_same(tmp_path, capsys):
    from glue.lora import add_lora
    from transformers import DebertaV2ForSequenceClassification

    from tests.nlu.world import recorded_deberta

    torch.manual_seed(0)
    saved(recorded_deberta(), tmp_path / "base")
    model = DebertaV2ForSequenceClassification.from_pretrained(tmp_path / "base").eval()
    assert model.config.share_att_key
    add_lora(model, r=2, lora_alpha=4)
    randomized(layer for layer in model.modules() if isinstance(layer, loralib.LoRALayer))
    torch.save(loralib.lora_state_dict(model), tmp_path / "lora.bin")
    export_it = ["export", tmp_path / "lora.bin", "--alpha", 4, "--out", tmp_path / "x", "--base"]
    for base in (tmp_path / "base", "microsoft/deberta-v2-xxlarge"):
        assert "PEFT would adapt both" in run(capsys, *export_it, base, code=2)
    run(capsys, "merge", tmp_path / "base", tmp_path / "lora.bin", "--alpha", 4, "--out", tmp_path / "merged")
    merged = DebertaV2ForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, **CLOSE)


# --- merging what PEFT wrote -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"target_modules": ["q_proj", "o_proj"], "use_rslora": True, "rank_pattern": {"o_proj": 5}},
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"], "alpha_pattern": {"q_proj": 1}},
    ],
)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_an_adapter_of_peft_in_a_sharded_llama_computes_the_same(config, safe, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    saved(llama(), tmp_path / "base", shards="4KB")
    if not safe:
        in_bin(tmp_path / "base")
    adapted = peft_of(llama(), tmp_path / "adapter", **config)
    run(capsys, "merge", tmp_path / "base", tmp_path / "adapter", "--out", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, **CLOSE)
    shards = list((tmp_path / "merged").glob("model-*-of-*.safetensors"))
    assert len(shards) == len(list((tmp_path / "base").glob("*-of-*"))) > 3


def in_bin(folder: Path) -> None:
    """The shards of a folder as ``torch.save`` writes them."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = {name: Path(name).with_suffix(".bin").name for name in set(index["weight_map"].values())}
    for old, new in names.items():
        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()
    index["weight_map"] = {key: names[name] for key, name in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["wte", "c_fc"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["wpe", "c_proj"]},
    ],
    ids=["embedding", "output layer", "saved output layer", "square projections"],
)
def test_a_tied_output_layer_parts_from_the_embedding_where_one_of_them_changes(config, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    base = saved(plain_gpt2(), tmp_path / "base")
    adapted = peft_of(plain_gpt2(), tmp_path / "adapter", **config)
    run(capsys, "merge", base, tmp_path / "adapter", "--out", tmp_path / "merged")
    merged = GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, **CLOSE)
    assert merged.config.tie_word_embeddings is ("wpe" in config["target_modules"])


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_an_adapter_are_merged(bias, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    base = saved(plain_gpt2(), tmp_path / "base")
    adapted = peft_of(plain_gpt2(), tmp_path / "adapter", target_modules=["c_attn"], bias=bias)
    run(capsys, "merge", base, tmp_path / "adapter", "--out", tmp_path / "merged")
    merged = GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, **CLOSE)


def test_a_merged_weight_is_rounded_once_from_float32(tmp_path, capsys):
    model = llama(torch.bfloat16)
    base = saved(model, tmp_path / "base")
    loralib.apply_lora(model, ["q_proj", "v_proj"], 2, 8)
    randomized(layer for layer in model.modules() if isinstance(layer, loralib.LoRALayer))
    loralib.save_adapter(model, tmp_path / "adapter")
    run(capsys, "merge", base, tmp_path / "adapter", "--out", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    layer = model.model.layers[1].self_attn.v_proj
    exact = layer.weight.float() + 4 * layer.lora_B.float() @ layer.lora_A.float()
    assert torch.equal(merged["model.layers.1.self_attn.v_proj.weight"], exact.to(torch.bfloat16))


@pytest.mark.parametrize("stored", ["without the prefix", "with the prefix"])
def test_names_with_and_without_the_prefix_of_the_model_meet(stored, gpt2, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    folder, model = gpt2
    shutil.copytree(folder / "base", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    adapter = folder / "model.3.pt"
    if stored == "without the prefix":
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        loralib.apply_lora(bare := plain_gpt2().transformer, "c_attn", 4, 16)
        adapter = tmp_path / "adapter"
        run(capsys, "export", folder / "model.3.pt", "--base", folder / "base", "--out", tmp_path / "long")
        loralib.load_adapter(wrapped := plain_gpt2(), tmp_path / "long")
        for ours, theirs in zip(bare.h, wrapped.transformer.h):
            ours.attn.c_attn = theirs.attn.c_attn
        loralib.save_adapter(bare, adapter)
    run(capsys, "merge", tmp_path / "base", adapter, "--out", tmp_path / "merged")
    same_as_the_example(model, GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval())


def test_names_that_fit_two_parts_of_a_model_are_refused(tmp_path, capsys):
    (tmp_path / "base").mkdir()
    tensors = {f"{tower}.encoder.q.weight": torch.randn(4, 4) for tower in ("text", "vision")}
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    torch.save({"encoder.q.lora_A": torch.randn(2, 4), "encoder.q.lora_B": torch.randn(4, 2)}, tmp_path / "lora.pt")
    merge = ["merge", tmp_path / "base", tmp_path / "lora.pt", "--alpha", 2, "--out", tmp_path / "merged"]
    assert "fits 2 parts" in run(capsys, *merge, code=2)


# --- nothing half-written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_write_json", "_write_safetensors", "save_adapter"])
def test_an_interrupted_command_leaves_nothing(step, gpt2, tmp_path, capsys, monkeypatch):
    folder, _ = gpt2

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(export if step == "save_adapter" else merge, step, stop)
    if step == "save_adapter":
        arguments = ["export", folder / "model.3.pt", "--base", folder / "base"]
    else:
        arguments = ["merge", folder / "base", folder / "model.3.pt"]
    assert run(capsys, *arguments, "--out", tmp_path / "out", code=130) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_command_killed_at_its_last_moment_leaves_no_folder_of_that_name_and_the_next_sweeps_up(gpt2, tmp_path):
    folder, _ = gpt2
    program = (
        "import os, signal, sys, pathlib\n"
        "from loralib.__main__ import main\n"
        "pathlib.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["merge", folder / "base", folder / "model.3.pt", "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and left.name.endswith(".partial")
    running = tmp_path / f".out.{os.getpid()}.abcdefgh.partial"
    running.mkdir()
    assert main([str(argument) for argument in arguments]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [running.name, "out"]


def test_an_existing_folder_is_kept_unless_it_is_empty(gpt2, tmp_path, capsys):
    folder, _ = gpt2
    merge = ["merge", folder / "base", folder / "model.3.pt", "--out"]
    (tmp_path / "empty").mkdir()
    run(capsys, *merge, tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full" / "notes.txt", folder / "base"):
        assert "is not an empty folder; choose another --out" in run(capsys, *merge, out, code=2)
    assert [file.read_text() for file in (tmp_path / "full").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]
    assert oct((tmp_path / "empty").stat().st_mode & 0o777) == "0o755"


# --- inspect and diff ------------------------------------------------------------------------------------------------


def test_inspect_says_what_each_kind_of_file_is(gpt2, glue, tmp_path, capsys):
    folder, model = gpt2
    run(capsys, "export", folder / "model.3.pt", "--base", folder / "base", "--out", tmp_path / "adapter")
    torch.save(loralib.lora_state_dict(model), tmp_path / "lora.pt")
    kinds = {
        folder / "model.3.pt": "checkpoint of the GPT-2 example",
        folder / "model.4.pt": "checkpoint of the GPT-2 example, complete",
        folder / "base": "plain model",
        folder / "base" / "model.safetensors": "plain model",
        glue[0] / "run": "checkpoint of the GLUE example, LoRA and further tensors",
        tmp_path / "adapter": "PEFT folder",
        tmp_path / "adapter" / "adapter_model.safetensors": "PEFT folder",
        tmp_path / "lora.pt": "file with the released names",
    }
    for path, kind in kinds.items():
        assert json.loads(run(capsys, "inspect", path, "--json"))["kind"] == kind
        text = run(capsys, "inspect", path)
        assert kind in text and max(map(len, text.splitlines())) <= 100
    found = json.loads(run(capsys, "inspect", folder / "model.3.pt", "--json"))
    assert (found["r"], found["alpha"], found["parameters"], found["bytes"]) == ([2], [8], 2 * 96, 2 * 96 * 4)
    assert found["targets"] == ["c_attn"] and found["dtypes"] == ["float32"]
    assert found["base"] == str(folder / "base" / "model.safetensors")
    for update, layer in zip(found["updates"], model.lora_layers()):
        assert update["norm"] == pytest.approx(layer.delta_weight().norm().item(), rel=1e-5)
    found = json.loads(run(capsys, "inspect", tmp_path / "lora.pt", "--json"))
    assert found["alpha"] == "not recorded" and found["updates"][0]["alpha"] is None
    assert found["updates"][0]["norm"] == pytest.approx(
        model.lora_layers()[0].delta_weight().norm().item() / 4, rel=1e-5
    )


def test_two_factorisations_of_one_update_are_equal(gpt2, tmp_path, capsys):
    folder, model = gpt2
    run(capsys, "export", folder / "model.3.pt", "--base", folder / "base", "--out", tmp_path / "adapter")
    printed = run(capsys, "diff", folder / "model.3.pt", tmp_path / "adapter")
    assert printed.splitlines()[-1] == "2 of 2 equal"  # of 2 blocks of rank 2, and of one of rank 4
    state = {name: t.detach().clone() for name, t in loralib.lora_state_dict(model).items()}
    torch.save({name: t * 4 if name.endswith("A") else t / 2 for name, t in state.items()}, tmp_path / "scaled.pt")
    given = ["--enable_lora", "1,0,1"]
    torch.save(state, tmp_path / "lora.pt")
    assert "0 of 2 equal" in run(
        capsys, "diff", tmp_path / "scaled.pt", tmp_path / "lora.pt", *given, "--alpha", 8, code=1
    )
    torch.save({name: t * 4 if name.endswith("A") else t / 4 for name, t in state.items()}, tmp_path / "scaled.pt")
    assert "2 of 2 equal" in run(capsys, "diff", tmp_path / "scaled.pt", tmp_path / "lora.pt", *given, "--alpha", 8)
    turned = torch.linalg.qr(torch.randn(2, 2))[0]
    torch.save(
        {n: turned @ t if n.endswith("A") and len(t) == 2 else t for n, t in state.items()}, tmp_path / "scaled.pt"
    )


def test_diff_measures_the_update_and_names_what_only_one_has(tmp_path, capsys):
    A, B = torch.randn(2, 5), torch.randn(4, 2)
    torch.save({"m.q.lora_A": A, "m.q.lora_B": B, "m.v.lora_A": A, "m.v.lora_B": B}, tmp_path / "a.pt")
    rotation = torch.linalg.qr(torch.randn(2, 2))[0]
    changed = B.clone()
    changed[3, 1] += 0.5
    other = {"m.q.lora_A": rotation @ A, "m.q.lora_B": B @ rotation.T, "m.v.lora_A": A, "m.v.lora_B": changed}
    torch.save({**other, "m.k.lora_A": A, "m.k.lora_B": B}, tmp_path / "b.pt")
    diff = ["diff", tmp_path / "a.pt", tmp_path / "b.pt", "--alpha", 6, "--tolerance", 1e-5]
    lines = run(capsys, *diff, code=1).splitlines()
    assert lines[-1] == "1 of 3 equal" and any(line.split()[:4] == ["m.k", "only", "in", "B"] for line in lines)
    (row,) = [line.split() for line in lines if line.startswith("m.v ")]
    difference = 3 * 0.5 * A[1].abs().max()
    largest = 3 * max((B @ A).abs().max(), (changed @ A).abs().max())
    assert float(row[1]) == pytest.approx(difference.item(), rel=1e-3)
    assert float(row[2]) == pytest.approx((difference / largest).item(), rel=1e-3)
    assert "does not say alpha" in run(capsys, "diff", tmp_path / "a.pt", tmp_path / "b.pt", code=2)


def test_diff_compares_models_tensor_by_tensor(gpt2, tmp_path, capsys):
    folder, _ = gpt2
    for name in ("model.3.pt", "model.4.pt"):
        run(capsys, "merge", folder / "base", folder / name, "--out", tmp_path / name)
    assert run(capsys, "diff", tmp_path / "model.3.pt", tmp_path / "model.4.pt") == "28 of 28 equal\n"
    printed = run(capsys, "diff", folder / "base", tmp_path / "model.4.pt", code=1)
    assert "26 of 28 equal" in printed and "transformer.h.1.attn.c_attn.weight" in printed
    assert "are an adapter and a plain model" in run(capsys, "diff", folder / "base", folder / "model.3.pt", code=2)


def test_the_page_shows_what_the_commands_print(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_gpt2(Path())
    page = (REPOSITORY / "docs" / "command_line.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        for example in block.split("$ python -m loralib ")[1:]:
            command, _, expected = example.partition("\n")
            printed = run(capsys, *command.split(), code=int(command.startswith("diff base")))
            shown, found = expected.split(), printed.split()
            assert len(shown) == len(found), printed
            for a, b in zip(shown, found):
                assert a == b or float(a) == pytest.approx(float(b), rel=0.01), printed


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """A plain base of one layer and a file with an update of it, ``lora.pt``; a function that writes another file."""
    good = {"m.q.lora_A": torch.randn(2, 4), "m.q.lora_B": torch.randn(6, 2)}
    (tmp_path / "base").mkdir()
    save_file({"m.q.weight": torch.randn(6, 4), "m.q.bias": torch.ones(6)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    torch.save(good, tmp_path / "lora.pt")
    return tmp_path, good


UNREADABLE = {
    "missing.pt": "does not exist",
    "folder": "is no PEFT folder, checkpoint folder or model folder",
    "run": "give one of its checkpoints: model.7.pt",
    "empty.pt": "empty or cut off",
    "cut.pt": "empty or cut off",
    "text.bin": "is no whole file of tensors",
    "text.safetensors": "is no whole file of tensors",
    "cut.safetensors": "is no whole file of tensors",
    "code.pt": "is no whole file of tensors",
    "bomb.pt": "compressed or overlapping content",
    "list.pt": "expected tensors by name, got list",
    "number.pt": "found int under 'a'",
    "spread.pt": "expected dense tensors",
    "half.pt": "m.q has lora_A (2, 4) torch.float32, which are not the factors",
    "odd.pt": "which are not the factors",
    "integers.pt": "which are not the factors",
    "record.pt": "is no whole file of tensors: Object of type Tensor is not JSON serializable",
    "index": "names '../lora.pt', which is not in the folder",
    "deep": "expected a JSON object",
    "peft": "peft_type is",
}


def write_unreadable(folder: Path, good: dict[str, torch.Tensor]) -> None:
    whole = (folder / "lora.pt").read_bytes()
    save_file(good, folder / "cut.safetensors")
    cut = (folder / "cut.safetensors").read_bytes()[:-9]
    texts = {"empty.pt": b"", "cut.pt": whole[: len(whole) // 2], "text.bin": b"weights\n", "text.safetensors": b"{}"}
    for name, content in {**texts, "cut.safetensors": cut}.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(2**24))
    for name, content in {
        "code.pt": nn.Linear(1, 1),
        "list.pt": [1, 2],
        "number.pt": {"a": 1},
        "spread.pt": {"a": torch.zeros(1).expand(2**40)},
        "half.pt": {"m.q.lora_A": good["m.q.lora_A"]},
        "odd.pt": {"m.q.lora_A": torch.randn(3, 4), "m.q.lora_B": torch.randn(6, 2)},
        "record.pt": {"model_state_dict": good, "lora_config": {"r": torch.ones(2)}},
        "integers.pt": {name: tensor.int() for name, tensor in good.items()},
    }.items():
        torch.save(content, folder / name)
    for name in ("folder", "run", "index", "deep", "peft"):
        (folder / name).mkdir()
    torch.save(good, folder / "run" / "model.7.pt")
    (folder / "index" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../lora.pt"}}))
    (folder / "deep" / "pytorch_model.bin.index.json").write_text("[" * 10**5)
    (folder / "peft" / "adapter_config.json").write_text("{}")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect", "export", "merge", "diff"])
def test_a_file_that_holds_no_weights_is_refused_in_one_line(command, pair, capsys):
    folder, good = pair
    write_unreadable(folder, good)
    before = sorted(folder.rglob("*"))
    for name, message in UNREADABLE.items():
        source, base, out = folder / name, folder / "base", ["--out", folder / "out"]
        arguments = {
            "inspect": [source],
            "export": [source, "--base", base, *out],
            "merge": [base, source, *out],
            "diff": [folder / "lora.pt", source],
        }
        assert message in run(capsys, command, *arguments[command], "--alpha", 4, code=2)
    assert sorted(folder.rglob("*")) == before


REFUSED = {
    "no alpha": ({}, [], "does not say alpha; give --alpha"),
    "alpha of the record": ({"record": {"r": 2, "alpha": 8}}, ["--alpha", "4"], "records alpha 8, but --alpha is 4.0"),
    "rank of the record": ({"record": {"r": 4, "alpha": 8}}, [], "has factors of r 2, but its record says 4"),
    "alpha in words": ({"record": {"r": 2, "alpha": "eight"}}, [], "lora_alpha must be a number"),
    "no LoRA": ({"file": {"m.q.bias": torch.ones(6)}}, [], "is a plain model without LoRA factors"),
    "other shapes": (
        {"file": {"m.q.lora_A": torch.ones(2, 5), "m.q.lora_B": torch.ones(6, 2)}},
        ["--alpha", "4"],
        "m.q is an update of (6, 5), the weight in",
    ),
    "other names": (
        {"file": {"m.k.lora_A": torch.ones(2, 4), "m.k.lora_B": torch.ones(6, 2)}},
        ["--alpha", "4"],
        "m.k.weight has 0 counterparts",
    ),
    "three blocks": (
        {"file": {"m.q.lora_A": torch.ones(4, 4), "m.q.lora_B": torch.ones(4, 2)}},
        ["--alpha", "4"],
        "which blocks of its fused layers are adapted; give --enable_lora",
    ),
    "other blocks": (
        {"file": {"m.q.lora_A": torch.ones(4, 4), "m.q.lora_B": torch.ones(4, 2)}},
        ["--alpha", "4", "--enable_lora", "1,1,1"],
        "do not fit the given MergedLinear",
    ),
    "flags in words": ({}, ["--enable_lora", "yes"], "argument --enable_lora: invalid integers value: 'yes'"),
    "alpha not finite": ({}, ["--alpha", "nan"], "m.q: lora_alpha must be finite"),
    "a third kind of flag": (
        {"file": {"m.q.lora_A": torch.ones(4, 4), "m.q.lora_B": torch.ones(4, 2)}},
        ["--alpha", "4", "--enable_lora", "1,2,1"],
        "enable_lora must contain only True and False",
    ),
    "quantised": ({"config": {"quantization_config": {"bits": 4}}}, ["--alpha", "4"], "is quantised; take the model"),
    "no base": ({"base": "missing"}, ["--alpha", "4"], "missing"),
    "other frozen weights": (
        {"file": {"m.q.lora_A": torch.ones(2, 4), "m.q.lora_B": torch.ones(6, 2), "m.q.weight": torch.ones(6, 4)}},
        ["--alpha", "4"],
        "holds other frozen weights than",
    ),
    "another layer trained": (
        {"file": {"m.q.lora_A": torch.ones(2, 4), "m.q.lora_B": torch.ones(6, 2), "m.norm.weight": torch.ones(6)}},
        ["--alpha", "4"],
        "m.norm.weight",
    ),
    "a name of torch's own": (
        {"file": {"m.forward.lora_A": torch.ones(2, 4), "m.forward.lora_B": torch.ones(6, 2)}},
        ["--alpha", "4"],
        "m.forward",
    ),
}


@pytest.mark.parametrize("command", ["export", "merge"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_or_does_not_fit_is_refused_in_one_line(case, command, pair, capsys):
    folder, good = pair
    changes, given, message = REFUSED[case]
    content = changes.get("file", good)
    torch.save({"model_state_dict": content, "lora_config": changes.get("record")}, folder / "lora.pt")
    (folder / "base" / "config.json").write_text(json.dumps(changes.get("config", {})))
    base, out = folder / changes.get("base", "base"), folder / "out"
    arguments = [folder / "lora.pt", "--base", base] if command == "export" else [base, folder / "lora.pt"]
    assert message in run(capsys, command, *arguments, "--out", out, *given, code=2)
    assert not out.exists() and not list(folder.glob(".out*"))


@pytest.mark.parametrize("case", ["NaN in the factors", "infinite in half precision", "quantised by its dtype"])
def test_no_model_is_written_with_a_weight_that_is_no_number(case, pair, capsys):
    folder, good = pair
    base = load_file(folder / "base" / "model.safetensors")
    if case == "NaN in the factors":
        good["m.q.lora_B"][5, 1] = torch.nan
    elif case == "infinite in half precision":
        base, good = {name: t.half() for name, t in base.items()}, {name: t * 1e3 for name, t in good.items()}
    else:
        base["m.q.weight"] = base["m.q.weight"].to(torch.int8)
    torch.save(good, folder / "lora.pt")
    save_file(base, folder / "base" / "model.safetensors")
    merge = ["merge", folder / "base", folder / "lora.pt", "--alpha", 4, "--out", folder / "out"]
    message = "take the model before it was quantised" if "quantised" in case else "m.q.weight has NaN or infinite"
    assert message in run(capsys, *merge, code=2)
    assert not (folder / "out").exists()


def test_an_embedding_that_other_layers_may_share_is_refused(tmp_path, capsys):
    (tmp_path / "base").mkdir()
    save_file({"m.shared.weight": torch.randn(9, 4)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"architectures": ["T5ForConditionalGeneration"]}')
    torch.save({"m.shared.lora_A": torch.randn(2, 9), "m.shared.lora_B": torch.randn(4, 2)}, tmp_path / "lora.pt")
    merge = ["merge", tmp_path / "base", tmp_path / "lora.pt", "--alpha", 4, "--out", tmp_path / "out"]
    assert "save the base untied first" in run(capsys, *merge, code=2)


@pytest.mark.parametrize("command", ["", "inspect", "export", "merge", "diff"])
def test_help_fits_in_100_columns_and_a_wrong_flag_is_one_line(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    printed = run(capsys, *command.split(), "--help")
    assert max(map(len, printed.splitlines())) <= 100
    for wrong in ([command, "--colour"], ["colour"], []):
        assert "--help" in run(capsys, *filter(None, wrong), code=2)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file with a few bytes changed, a part left out, doubled or zeroed, or its end cut off."""
    a, b = sorted(draw.randrange(len(content)) for _ in range(2))
    b = min(b, a + 200)
    kind = draw.randrange(6)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    parts = [b"", content[a:b] * 2, bytes(b - a), draw.randbytes(b - a)]
    return content[:a] if kind == 5 else content[:a] + parts[kind - 1] + content[b:]


ODD = [None, True, -1, 0, 2, 3.5, float("nan"), "x", "", [], [1], {}, {"path": 3}, [True, False, True], 10**30]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_end_in_one_line_or_in_a_result(seed, gpt2, glue, tmp_path, capsys):
    draw = random.Random(seed)
    folder, _ = gpt2
    run(capsys, "export", folder / "model.3.pt", "--base", folder / "base", "--out", tmp_path / "peft")
    sources = [(folder / name, folder / "base") for name in ("model.3.pt", "model.4.pt")]
    sources += [(glue[0] / "run" / "pytorch_model_lora.bin", glue[0] / "base")]
    sources += [
        (tmp_path / "peft" / name, folder / "base") for name in ("adapter_model.safetensors", "adapter_config.json")
    ]
    for i in range(14):
        source, base = draw.choice(sources)
        copy = tmp_path / f"{i}"
        copy.mkdir()
        if source.parent.name == "peft":
            shutil.copytree(source.parent, copy, dirs_exist_ok=True)
        target = copy / source.name
        if source.name == "model.3.pt" and draw.random() < 0.5:
            content = torch.load(source, weights_only=True)
            content["lora_config"][draw.choice([*content["lora_config"]])] = draw.choice(ODD)
            torch.save(content, target)
        elif source.suffix == ".json" and draw.random() < 0.7:
            content = json.loads(source.read_text())
            content[draw.choice([*content])] = draw.choice(ODD)
            target.write_text(json.dumps(content))
        else:
            target.write_bytes(damaged(source.read_bytes(), draw))
        given = draw.choice([[], ["--alpha", "8"], ["--enable_lora", "1,0,1"], ["--block_sizes", "12,12,12"]])
        whole = target.parent if source.parent.name == "peft" else target
        for command in (
            ["inspect", whole, *draw.choice([[], ["--json"]])],
            ["export", whole, "--base", base, "--out", copy / "exported"],
            ["merge", base, whole, "--out", copy / "merged"],
            ["diff", source, whole],
        ):
            capsys.readouterr()
            code = main([str(argument) for argument in [*command, *given]])
            err = capsys.readouterr().err
            lines = [line for line in err.splitlines() if not line.startswith("note: ")]
            assert code in (0, 1, 2) and len(lines) == (code == 2), err
            assert all(line.startswith("error: ") and len(line) < 700 for line in lines)
        assert not list(copy.glob(".*"))
