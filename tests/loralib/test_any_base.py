"""LoRA beside layers that are not rewritten: 4- and 8-bit weights, offloaded ones, subclasses, kernels of Mamba."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import loralib
from tests.loralib.toys import randomize

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
LLAMA = LlamaConfig(**SIZES, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2)
IDS = torch.tensor([[1, 5, 9, 2], [7, 7, 3, 4]])


def filled(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    randomize(model)
    return model


def in_4_bits() -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(64, 96, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict(nn.Linear(64, 96).state_dict())
    return layer.to("cpu")  # quantises


def in_8_bits() -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear8bitLt(64, 96, has_fp16_weights=False)
    layer.load_state_dict(nn.Linear(64, 96).state_dict())
    return layer.to("cpu")


def in_int8_of_torchao() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization = pytest.importorskip("torchao.quantization")
        layer = nn.Linear(64, 96)
        quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
    return layer


QUANTISED = [in_4_bits, in_8_bits, in_int8_of_torchao]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("build", QUANTISED)
def test_quantised_layers_train_save_load_and_refuse_to_merge(build, fused, tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"q": build()}).eval()
    x = torch.randn(5, 64, requires_grad=True)
    base, weight = model["q"](x).detach(), model["q"].weight
    blocks = {"enable_lora": [True, False, True], "block_sizes": [64, 16, 16]} if fused else {}
    loralib.apply_lora(model, "q", 4, 8, **blocks)
    layer = model["q"]
    torch.testing.assert_close(layer(x), base)
    assert layer.weight is weight and layer.lora_A.dtype == torch.float32
    y = filled(model)["q"](x)
    torch.testing.assert_close(y, base + x @ layer.delta_weight().T, rtol=1e-3, atol=1e-3)
    layer(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in (layer.lora_A, layer.lora_B, x))
    loralib.save_adapter(model, tmp_path)
    twins = [copy.deepcopy(model)]
    if build is not in_int8_of_torchao:  # torchao itself puts on the layer what cannot be pickled
        twins.append(pickle.loads(pickle.dumps(model)))
    for twin in twins:
        assert isinstance(twin["q"], type(model["q"]))
        torch.testing.assert_close(twin["q"](x), y)
    with pytest.raises(RuntimeError, match="quantised, offloaded or has its own forward pass cannot take the update"):
        layer.merge()
    with pytest.raises(ValueError, match=r"^q: a Linear.* that is quantised"):
        loralib.remove_lora(model)
    with loralib.disabled(model):
        torch.testing.assert_close(model["q"](x), base)
    loralib.remove_lora(model, merge=False)
    torch.testing.assert_close(model["q"](x), base)
    assert not isinstance(model["q"], loralib.LoRALayer) and model["q"].weight is weight
    torch.testing.assert_close(loralib.load_adapter(model, tmp_path)["q"](x), y)
    with pytest.raises(ValueError, match=r"^q keeps its own forward pass.*use merge_weights=False"):
        loralib.apply_lora(nn.ModuleDict({"q": build()}), "q", 4, 8, merge_weights=True)


def test_a_model_that_accelerate_offloads_computes_and_trains_as_if_it_were_whole(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    torch.manual_seed(0)
    whole = LlamaForCausalLM(LLAMA).eval()
    model = accelerate.cpu_offload(copy.deepcopy(whole), execution_device=torch.device("cpu"))
    assert model.model.layers[0].mlp.up_proj.weight.is_meta
    base = whole(IDS).logits
    for target in (whole, model):
        filled(loralib.apply_lora(target, "all-linear", 2, 4))
    torch.testing.assert_close(model(IDS).logits, whole(IDS).logits, rtol=0, atol=1e-6)
    for target in (whole, model):
        target(IDS).logits.square().sum().backward()
    factors = {name: p for name, p in whole.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, factors.pop(name).grad)
    assert not factors
    loralib.save_adapter(model, tmp_path)
    loralib.remove_lora(model, merge=False)
    torch.testing.assert_close(model(IDS).logits, base, rtol=0, atol=1e-6)
    torch.testing.assert_close(loralib.load_adapter(model, tmp_path)(IDS).logits, whole(IDS).logits, rtol=0, atol=1e-6)


def test_an_embedding_that_scales_its_rows_scales_their_update_and_merges_exactly():
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, intermediate_size=64, num_attention_heads=4, head_dim=8)).eval()
    old = model.model.embed_tokens
    rows = old(IDS)
    loralib.apply_lora(model, "embed_tokens", 2, 4)
    layer = filled(model).model.embed_tokens
    assert layer is old and isinstance(layer, loralib.Embedding)
    expected = rows + (4 / 2) * 32**0.5 * nn.functional.embedding(IDS, (layer.lora_B @ layer.lora_A).T)
    torch.testing.assert_close(layer(IDS), expected)
    layer.merge()
    torch.testing.assert_close(layer(IDS), expected)
    logits = model(IDS).logits
    loralib.remove_lora(model, untie=True)
    torch.testing.assert_close(model(IDS).logits, logits)


class Sinusoids(nn.Embedding):
    def forward(self, ids):
        return nn.functional.embedding(ids, self.weight.sin())


def test_an_embedding_with_code_that_lora_cannot_reach_is_refused():
    with pytest.raises(TypeError, match=r"^e is a Sinusoids, whose forward pass does not call that of nn.Embedding"):
        loralib.apply_lora(nn.ModuleDict({"e": Sinusoids(5, 4)}), "e", 2, 4)


class Named(nn.Linear):
    """A subclass without code of its own."""


class Negated(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


def test_subclasses_of_linear_stay_what_they_are():
    model, x = nn.ModuleDict({"a": Named(4, 4), "b": Negated(4, 4)}), torch.randn(3, 4)
    base = {name: layer(x) for name, layer in model.items()}
    filled(loralib.apply_lora(model, ["a", "b"], 2, 4))
    assert isinstance(model["a"], (Named, loralib.Linear)) and isinstance(model["b"], Negated)
    for name, layer in model.items():
        torch.testing.assert_close(layer(x), base[name] + x @ layer.delta_weight().T)
    model["a"].merge()
    torch.testing.assert_close(model["a"](x), base["a"] + x @ model["a"].delta_weight().T)
    loralib.remove_lora(model, merge=False)
    assert [type(layer) for layer in model.values()] == [Named, Negated]
    assert all(torch.equal(layer(x), base[name]) for name, layer in model.items())


class Transposing(nn.Linear):
    """As Falcon's."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


class Grouped(nn.Linear):
    def forward(self, x):
        return torch.einsum("...gi,goi->...go", x, self.weight.view(3, -1, self.in_features))


def test_a_subclass_merges_where_its_code_makes_the_same_of_the_summed_weight():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.ModuleDict({"a": Transposing(40, 30), "b": Negated(40, 30)}).to(dtype)
        filled(loralib.apply_lora(model, ["a", "b"], 2, 4))
        x, rng = torch.randn(3, 40, dtype=dtype), torch.get_rng_state()
        y, stored = model["a"](x), model["a"].weight
        model["a"].merge()
        tolerance = 1e-5 if dtype == torch.float32 else 0.2
        torch.testing.assert_close(model["a"](x), y, rtol=tolerance, atol=tolerance)
        model["a"].unmerge()
        assert torch.equal(model["a"](x), y) and model["a"].weight is stored
        with pytest.raises(RuntimeError, match="a Negated that is quantised, offloaded or has its own forward pass"):
            model["b"].merge()
        assert torch.equal(torch.get_rng_state(), rng) and model["b"].training
    model.pop("b")
    loralib.remove_lora(model)
    assert type(model["a"]) is Transposing
    torch.testing.assert_close(model["a"](x), y, rtol=0.2, atol=0.2)


def test_a_linear_layer_of_other_shapes_is_refused():
    with pytest.raises(
        TypeError, match=r"^g is a .*Grouped, whose forward pass does not make \(..., 24\) of \(..., 8\)"
    ):
        loralib.apply_lora(nn.ModuleDict({"g": Grouped(8, 24)}), "g", 2, 4)


def test_kernels_of_mamba_read_weights_with_their_update():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZES, state_size=4, time_step_rank=4)).eval()
    filled(loralib.apply_lora(model, "all-linear", 2, 4))
    logits, mixer = model(IDS).logits, model.backbone.layers[0].mixer
    for layer in (mixer.x_proj, mixer.dt_proj, mixer.out_proj):  # what the kernels on a GPU read
        stored = dict(layer.named_parameters())["weight"]
        torch.testing.assert_close(layer.weight, stored + layer.delta_weight())
        assert layer.weight.requires_grad, "reading it passes gradients on to the factors"
    with pytest.raises(ValueError, match="x_proj is read by other code instead of being called"):
        loralib.apply_lora(MambaForCausalLM(model.config), "x_proj", 2, 4, dropout=0.1)
    loralib.remove_lora(model)
    torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("evaluated_before", [False, True])
def test_gradients_flow_through_4_bits_after_an_evaluation(evaluated_before):
    """With AVX-512, bitsandbytes would pack the weights in the first evaluation into a form without a backward pass."""
    model = nn.Sequential(nn.Linear(64, 64), in_4_bits(), nn.ReLU(), nn.Linear(96, 2))
    x = torch.randn(5, 64)
    if evaluated_before:
        with torch.no_grad():
            model.eval()(x)
    loralib.apply_lora(model, "0", 4, 8)
    filled(model)
    with torch.no_grad():
        model.eval()(x)
    model.train()(x).square().sum().backward()
    y = model[1](torch.eye(64)) - model[1](torch.zeros(64))  # its weight, transposed
    torch.testing.assert_close(model[1](x), x @ y + model[1](torch.zeros(64)), rtol=1e-4, atol=1e-4)
    assert model[0].lora_A.grad.abs().max() > 0


def test_an_adapter_on_a_model_loaded_in_4_bits_computes_the_same_in_peft_and_back(tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "hidden_size": 64}, intermediate_size=128, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)

    def base():
        options = {"quantization_config": quantised, "device_map": "cpu", "dtype": torch.float32}
        return LlamaForCausalLM.from_pretrained(tmp_path / "base", **options)

    model = filled(loralib.apply_lora(base(), "all-linear", 4, 8)).eval()
    logits = model(IDS).logits
    loralib.save_adapter(model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(base(), tmp_path / "ours").train()  # no dropout; keeps weights as ours are
    torch.testing.assert_close(theirs(IDS).logits, logits, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    back = loralib.load_adapter(base(), tmp_path / "theirs")
    torch.testing.assert_close(back(IDS).logits, logits, rtol=0, atol=1e-5)
