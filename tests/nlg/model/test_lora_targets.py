"""LoRA on any linear layer of GPT-2: counts, gradients, decoding, files, and PEFT's reading of them."""

import json

import gpt2_beam
import gpt2_ft
import pytest
import torch
from generation.decoding_model import DecodingModel
from gpt2.checkpoint import load_into, recorded_lora, save_full, save_trained
from gpt2.config import MODEL_CARDS, TARGETS, GPT2Config, LoRAConfig, parse_targets
from gpt2.model import GPT2LMModel
from gpt2.trainable import METHODS, choose_trainable, trained_names
from gpt2.weights import read_checkpoint
from safetensors.torch import load_file

import loralib
from examples.common.errors import UserError
from tests.nlg.train.helpers import tensors_of, tiny_flags, write_tiny_files

CONFIG = GPT2Config(vocab_size=53, n_positions=16, n_embd=16, n_layer=3, n_head=4)
IDS = torch.randint(53, (2, 9), generator=torch.Generator().manual_seed(0))
EACH = [*TARGETS, "c_proj", "c_attn,c_proj,c_fc", "query,mlp.c_proj", "all-linear"]


def toy(targets="all-linear", *, r=3, seed=0):
    """A model whose update is not zero."""
    torch.manual_seed(seed)
    model = GPT2LMModel(CONFIG, LoRAConfig(r=r, alpha=6, targets=parse_targets(targets)))
    for layer in model.lora_layers():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model.eval()


def merged(model):
    """The same function without LoRA."""
    plain = GPT2LMModel(CONFIG)
    plain.load_state_dict(loralib.merged_state_dict(model))
    return plain.eval()


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids)[0]


def trained(card, r, targets):
    with torch.device("meta"):
        model = GPT2LMModel(MODEL_CARDS[card], LoRAConfig(r=r, targets=parse_targets(targets)))
    names, parameters = trained_names(model, "lora"), dict(model.named_parameters())
    return sum(parameters[name].numel() for name in names)


@pytest.mark.parametrize(
    ("card", "r", "targets", "count"),
    [
        ("gpt2.sm", 4, "query,value", 147_456),  # 12 blocks x 2 x 4 x (768 + 768)
        ("gpt2.sm", 4, "c_attn", 147_456),  # 12 x 4 x (768 + 3 x 768)
        ("gpt2.sm", 16, "c_attn,c_proj,c_fc", 2_359_296),  # 12 x 16 x 768 x (4 + 2 + 5 + 5)
        ("gpt2.sm", 16, "all-linear", 2_654_208),  # 12 x 16 x 768 x (4 x 2 + 2 x 5)
        ("gpt2.md", 16, "all-linear", 7_077_888),  # 24 x 16 x 1024 x (4 x 2 + 2 x 5)
    ],
)
def test_counted_parameters_are_those_of_the_studies(card, r, targets, count):
    assert trained(card, r, targets) == count


@pytest.mark.parametrize(("method", "count"), [("top2", 25_194_496), ("full", 354_823_168), ("bias", 271_360)])
def test_counted_parameters_of_the_baselines_on_gpt2_medium(method, count):
    # 2 blocks of 12,596,224 and ln_f, the paper's 25.19M; biases: 24 x 1024 x (1 + 3 + 1 + 1 + 4 + 1) and that of ln_f
    with torch.device("meta"):
        model = GPT2LMModel(MODEL_CARDS["gpt2.md"])
    choose_trainable(model, method)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("targets", EACH)
def test_an_update_changes_the_output_and_merging_keeps_it(targets):
    model = toy(targets)
    assert not torch.allclose(logits(model), logits(toy(targets, r=0)), atol=1e-3)
    torch.testing.assert_close(logits(merged(model)), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", EACH)
@torch.no_grad()
def test_decoding_has_every_update_in_its_weights(targets):
    model = toy(targets)
    q_k_v = torch.arange(IDS.size(1))

    def attend(qkv):  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    decoding = DecodingModel(model)
    found = decoding.logits(decoding.hidden(IDS, q_k_v, [attend] * CONFIG.n_layer))
    torch.testing.assert_close(found, logits(model), rtol=1e-4, atol=1e-4)


def test_the_default_targets_keep_draws_and_keys_of_the_released_code():
    models = [GPT2LMModel(CONFIG, LoRAConfig(r=2)), toy("query,value", r=2)]
    assert [*models[0].state_dict()] == [*models[1].state_dict()]
    assert {name.split(".", 3)[3] for name in trained_names(models[0], "lora")} == {
        "attn.c_attn.lora_A",
        "attn.c_attn.lora_B",
    }


@pytest.mark.parametrize("init", ["released", "independent"])
def test_blocks_start_with_one_draw_as_released_or_with_their_own(init):
    model = GPT2LMModel(CONFIG, LoRAConfig(r=2, init=init, targets=parse_targets("all-linear")))
    first, second = (model.transformer.h[i].mlp.c_fc.lora_A for i in (0, 1))
    assert torch.equal(first, second) == (init == "released")


@pytest.mark.parametrize("targets", ["all-linear", "c_attn", "attn.c_proj"])
def test_apply_lora_adapts_a_plain_model_of_ours(targets):
    model = GPT2LMModel(CONFIG).eval()
    before = logits(model)
    loralib.apply_lora(model, targets, r=2, alpha=4)
    assert not any(isinstance(m, loralib.LoRALayer) for m in model.lm_head.modules())  # tied to the embedding
    assert len(model.lora_layers()) == CONFIG.n_layer * (4 if targets == "all-linear" else 1)
    torch.testing.assert_close(logits(model), before)
    for layer in model.lora_layers():
        torch.nn.init.normal_(layer.lora_B)
    torch.testing.assert_close(logits(merged(model)), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("save", [save_trained, save_full])
@pytest.mark.parametrize("targets", ["all-linear", "c_attn,mlp.c_fc", "attn.c_proj"])
def test_a_checkpoint_says_where_lora_is_and_comes_back(tmp_path, save, targets):
    model = toy(targets)
    base = {name: t for name, t in model.transformer.state_dict().items() if ".lora_" not in name}
    torch.save(base, tmp_path / "base.bin")
    origin = load_into(toy(targets, r=0), tmp_path / "base.bin")
    save(tmp_path / "w.pt", model, origin, 3)
    file = read_checkpoint(tmp_path / "w.pt")
    assert not any("lora_" in name for name in file.base)
    settings = recorded_lora(file, LoRAConfig())
    assert settings == model.lora_config
    loaded = GPT2LMModel(CONFIG, settings).eval()
    load_into(loaded, file, require_lora=True)
    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(UserError, match=f"was trained with --lora_targets {','.join(settings.targets)}, got query,va"):
        load_into(GPT2LMModel(CONFIG, LoRAConfig(r=3, alpha=6)), file)


def test_wide_lora_in_a_file_without_record_is_refused_where_the_model_has_none(tmp_path):
    torch.save(toy("query,value,c_fc").transformer.state_dict(), tmp_path / "w.bin")
    with pytest.raises(UserError, match=r"has LoRA where the model has none, first 'h\.0\.mlp\.c_fc\.lora_A'"):
        load_into(GPT2LMModel(CONFIG, LoRAConfig(r=3, alpha=6)), tmp_path / "w.bin")


@pytest.mark.parametrize("recorded", [["query", "value"], [True, False, True]])
def test_targets_are_read_in_both_forms(tmp_path, recorded):
    model = toy("query,value")
    save_trained(tmp_path / "w.pt", model, None, 3)
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    assert content["lora_config"]["targets"] == ["query", "value"]
    content["lora_config"]["targets"] = recorded
    torch.save(content, tmp_path / "w.pt")
    assert recorded_lora(read_checkpoint(tmp_path / "w.pt"), LoRAConfig()).targets == ("query", "value")


@pytest.mark.parametrize("targets", ["all-linear", "c_attn,c_proj,c_fc", "query,key,mlp.c_proj"])
def test_peft_on_transformers_gpt2_gives_our_logits(tmp_path, capsys, targets):
    pytest.importorskip("peft")
    from peft import PeftModel
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    from loralib.__main__ import main

    model = toy(targets)
    theirs = GPT2LMHeadModel(
        TheirConfig(vocab_size=53, n_positions=16, n_embd=16, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    ).eval()
    base = {name: t for name, t in model.transformer.state_dict().items() if ".lora_" not in name}
    assert not theirs.transformer.load_state_dict(base).missing_keys
    theirs.save_pretrained(tmp_path / "base")
    ours = GPT2LMModel(CONFIG, model.lora_config).eval()
    origin = load_into(ours, tmp_path / "base" / "model.safetensors")
    ours.load_state_dict(model.state_dict())
    with torch.no_grad(), loralib.disabled(model):
        torch.testing.assert_close(theirs(IDS).logits, logits(model), rtol=1e-5, atol=1e-5)
    save_trained(tmp_path / "model.3.pt", ours, origin, 3)
    words = ["export", tmp_path / "model.3.pt", "--base", tmp_path / "base", "--out", tmp_path / "adapter"]
    main([str(word) for word in words])
    with torch.no_grad():
        found = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, logits(model), rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_tiny_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


METHOD_FLAGS = {
    "lora": {"lora_targets": "all-linear"},
    **{method: {"method": method, "lora_dim": 0} for method in METHODS if method != "lora"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_saves_what_its_method_trains_and_a_new_run_starts_from_it(folder, method, capsys):
    flags = METHOD_FLAGS[method]
    gpt2_ft.main(tiny_flags(max_step=4, work_dir="w", lora_only_checkpoints=True, **flags))
    saved = tensors_of(folder / "w" / "model.4.pt")
    metrics = json.loads((folder / "w" / "metrics.json").read_text())
    assert metrics["settings"]["method"] == method
    base = load_file(folder / "base.safetensors")
    changed = {name for name, t in base.items() if not torch.equal(saved.get(f"module.transformer.{name}", t), t)}
    assert bool(changed) == (method != "lora")
    if method != "full":
        assert sum(t.numel() for t in saved.values()) == metrics["trainable_parameters"]
        assert all(METHODS[method](name, 2) for name in saved)
    record = torch.load(folder / "w" / "model.4.pt", weights_only=True)["lora_config"]
    assert (record["method"], record["complete"]) == (method, method == "full")
    gpt2_ft.main(tiny_flags(max_step=4, work_dir="v", lr=0.0, init_checkpoint="w/model.4.pt", **flags))
    again = tensors_of(folder / "v" / "model.4.pt")
    assert all(torch.equal(t, again[name]) for name, t in saved.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_decoding_finds_method_targets_and_base_in_the_checkpoint(folder, method):
    gpt2_ft.main(tiny_flags(max_step=5, work_dir="w", **METHOD_FLAGS[method]))  # evaluates, and ends, at step 5
    flags = "--data valid.jsonl --model_card tiny.json --seq_len 30 --eval_len 8 --beam 3 --work_dir w --platform local"
    found = []
    for name in ("model.5.pt", "model.best.pt", "base.safetensors"):  # everything, what was trained, and neither
        path = "base.safetensors" if name == "base.safetensors" else f"w/{name}"
        gpt2_beam.main([*flags.split(), "--init_checkpoint", path, "--output_file", f"of_{name}"])
        found.append((folder / "w" / f"of_{name}").read_text())
    assert found[0] == found[1] != found[2]
