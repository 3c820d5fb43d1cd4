"""Several adapters on one model: each computes as it would alone, switched, summed, or in the rows of one batch."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import loralib
from loralib.utils import lora_layers
from tests.loralib.models import EVERY_KIND, IDS, filled, net
from tests.loralib.toys import randomize

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2], [9, 9, 8, 1, 3], [0, 6, 6, 2, 1]])
ROWS = ["fused", None, "whole", "fused"]
Q_V = [True, False, True]


def gpt2(seed: int = 0):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 12, "vocab_size": 31, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()


def llama(seed: int = 0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 12}
    config = LlamaConfig(**sizes, intermediate_size=20, vocab_size=31, bos_token_id=None, eos_token_id=None)
    return LlamaForCausalLM(config).eval()


# Ranks, layers, blocks and scales differ.
OF_GPT2 = {
    "fused": {"targets": "c_attn", "r": 2, "alpha": 4, "enable_lora": Q_V},
    "whole": {"targets": ["c_attn", "c_fc"], "r": 3, "alpha": 3, "use_rslora": True},
}
OF_LLAMA = {
    "fused": {"targets": ["q_proj", "v_proj"], "r": 2, "alpha": 4},
    "whole": {"targets": ["q_proj", "k_proj", "down_proj"], "r": 3, "alpha": 3, "use_rslora": True},
}
MODELS = {"gpt2": (gpt2, OF_GPT2), "llama": (llama, OF_LLAMA)}


def bank_of(model: nn.Module, adapters=OF_GPT2, **further) -> loralib.Adapters:
    """The model with adapters whose factors are not zero."""
    bank = loralib.Adapters(model)
    for seed, (name, settings) in enumerate(adapters.items()):
        bank.add(name, **settings, **further)
        bank.activate(name)
        torch.manual_seed(seed)
        randomize(model)
    bank.activate(None)
    return bank


def gpt2_bank(**further) -> loralib.Adapters:
    return bank_of(gpt2(), OF_GPT2, **further)


def alone(bank: loralib.Adapters, name: str | None, run):
    bank.activate(name)
    try:
        return run()
    finally:
        bank.activate(None)


def row_by_row(bank: loralib.Adapters, names, tokens=TOKENS):
    """Logits of each row computed by itself, with its adapter active."""
    rows = [alone(bank, name, lambda row=row: bank.model(row[None]).logits) for name, row in zip(names, tokens)]
    return torch.cat(rows)


def factors(bank: loralib.Adapters, name: str) -> dict[str, nn.Parameter]:
    return alone(bank, name, lambda: {key: p for key, p in bank.model.named_parameters() if "lora_" in key})


def bits(tensors) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in tensors]


def close(a, b, atol=1e-6):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# --- adding and switching --------------------------------------------------------------------------------------------


def test_the_factors_of_a_model_are_its_default_adapter():
    bank = loralib.Adapters(loralib.apply_lora(gpt2(), "c_attn", 2, 4))
    assert (bank.names, bank.active, len(bank), "default" in bank) == (("default",), "default", 1, True)
    empty = loralib.Adapters(gpt2())
    assert (empty.names, empty.active, len(empty), "default" in empty) == ((), None, 0, False)


def test_an_adapter_that_waits_is_no_part_of_the_model():
    bank = gpt2_bank()
    assert list(bank.model.state_dict()) == list(gpt2().state_dict())
    assert [type(m) for m in bank.model.modules()] == [type(m) for m in gpt2().modules()]
    assert torch.equal(bank.model(TOKENS).logits, gpt2()(TOKENS).logits)
    bank.activate("whole")
    keys = list(bank.model.state_dict())
    output = bank.model(TOKENS).logits
    bank.add("third", targets="c_proj", r=2, alpha=2)
    assert (bank.active, list(bank.model.state_dict())) == ("whole", keys)
    assert torch.equal(bank.model(TOKENS).logits, output)


def test_an_active_adapter_computes_as_alone_and_other_layers_have_no_factors(tmp_path):
    bank = gpt2_bank()
    for name in bank.names:
        bank.activate(name)
        loralib.save_adapter(bank.model, tmp_path / name)
        single = loralib.load_adapter(gpt2(), tmp_path / name)
        assert list(bank.model.state_dict()) == list(single.state_dict())
        assert torch.equal(bank.model(TOKENS).logits, single(TOKENS).logits)
    bank.activate("fused")
    assert {path.rpartition(".")[2] for path in lora_layers(bank.model)} == {"c_attn"}


def test_folders_are_added_as_load_adapter_reads_them(tmp_path):
    bank = gpt2_bank()
    for name in bank.names:
        bank.activate(name)
        loralib.save_adapter(bank.model, tmp_path / name)
    again = loralib.Adapters(gpt2())
    for name in bank.names:
        again.add(name, tmp_path / name)
    for name in bank.names:
        assert bits(factors(again, name).values()) == bits(factors(bank, name).values())
    close(row_by_row(again, ROWS), row_by_row(bank, ROWS))


def test_switching_keeps_parameters_flags_and_the_weights_that_are_frozen():
    bank = gpt2_bank()
    before = dict(bank.model.named_parameters())
    weights = bits(before.values())
    first = factors(bank, "fused")
    next(iter(first.values())).requires_grad_(False)
    bank.activate("whole")
    bank.activate("fused")
    now = {key: p for key, p in bank.model.named_parameters() if "lora_" in key}
    assert all(now[key] is parameter for key, parameter in first.items())
    assert [p.requires_grad for p in now.values()] == [False] + [True] * (len(now) - 1)
    bank.activate(None)
    assert all(p is before[key] for key, p in bank.model.named_parameters())
    assert bits(bank.model.parameters()) == weights


@pytest.mark.parametrize("merge", ["by eval()", "by merge()"])
def test_merging_is_switched_too_and_back_again_gives_the_same_bits(merge):
    bank = gpt2_bank(merge_weights=merge == "by eval()")

    def merged(name):
        bank.activate(name)
        if merge == "by merge()":
            for layer in lora_layers(bank.model).values():
                layer.merge()
        return bank.model(TOKENS).logits

    first, second = merged("fused"), merged("whole")
    for _ in range(2):
        for name, output in (("fused", first), (None, gpt2()(TOKENS).logits), ("whole", second)):
            bank.activate(name)
            assert all(layer.merged for layer in lora_layers(bank.model).values())
            assert torch.equal(bank.model(TOKENS).logits, output)


def test_an_adapter_added_or_refused_leaves_a_merged_layer_merged_and_another_not():
    bank = gpt2_bank()
    bank.activate("fused")
    first, second = lora_layers(bank.model).values()
    first.merge()
    bank.add("third", targets="c_fc", r=1, alpha=1)
    with pytest.raises(ValueError, match="matches no module"):
        bank.add("fourth", targets="nothing", r=1, alpha=1)
    assert (first.merged, second.merged) == (True, False)


def test_training_an_adapter_trains_its_parameters_alone():
    bank = gpt2_bank()
    others = bits(factors(bank, "whole").values())
    bank.activate("fused")
    optimizer = torch.optim.SGD([p for p in bank.model.parameters() if p.requires_grad], lr=0.1)
    before = bits(bank.model.parameters())
    bank.model.train()(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    changed = [key for (key, p), old in zip(bank.model.named_parameters(), before) if bits([p]) != [old]]
    assert changed == [key for key, _ in bank.model.named_parameters() if "lora_" in key]
    assert bits(factors(bank, "whole").values()) == others


def test_the_dropout_of_an_adapter_follows_the_mode_of_the_model():
    bank = gpt2_bank(dropout=0.5)
    bank.model.train()
    bank.activate("fused")
    assert all(layer.lora_dropout.training for layer in lora_layers(bank.model).values())
    bank.activate(None)
    bank.model.eval()
    bank.activate("fused")
    assert not any(layer.lora_dropout.training for layer in lora_layers(bank.model).values())


def test_factors_keep_their_values_where_the_weights_have_none():
    bank = bank_of(nn.Sequential(nn.Linear(5, 4)), {"a": {"targets": "0", "r": 2, "alpha": 2}})
    before = bits(factors(bank, "a").values())
    bank.model.to("meta")
    assert bits(factors(bank, "a").values()) == before


def test_switching_makes_no_tensor():
    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made.append(func)
            return func(*args, **(kwargs or {}))

    made: list[object] = []
    bank = gpt2_bank()
    bank.activate("fused")
    with Sizes():
        bank.activate("whole")
        bank.activate(None)
        bank.activate("fused")
    assert not made


def test_an_adapter_of_every_kind_of_layer_comes_and_goes():
    model = net()
    before, keys = model(IDS), list(model.state_dict())
    loralib.apply_lora(model, EVERY_KIND, 2, 4, enable_lora={"c_attn": Q_V})
    output = filled(model)(IDS)
    bank = loralib.Adapters(model)
    bank.add("linear", targets="query", r=1, alpha=1)
    for name, expected in (("linear", before), ("default", output), (None, before)):
        bank.activate(name)
        assert torch.equal(model(IDS), expected)  # "linear" is new, its update zero
    assert list(model.state_dict()) == keys


def test_layers_built_by_hand_take_other_adapters_and_keep_their_class():
    class Own(loralib.MergedLinear):
        pass

    torch.manual_seed(0)
    by_hand = nn.Sequential(
        loralib.Linear(6, 8, r=2, merge_weights=False),
        Own(8, 9, r=2, enable_lora=Q_V, fan_in_fan_out=True, merge_weights=False),
    )
    randomize(by_hand)
    weights = [layer._parameters["weight"] for layer in by_hand]
    bank, x = loralib.Adapters(by_hand), torch.randn(2, 6)
    first = by_hand(x)
    bank.add("blocks", targets=["0", "1"], r=3, alpha=2, enable_lora={"1": [True, True, False]})
    bank.add("whole", targets=["1"], r=1, alpha=2)
    assert torch.equal(by_hand(x), first)
    outputs = {"default": first}
    for name in ("blocks", "whole"):
        bank.activate(name)
        randomize(by_hand)
        outputs[name] = by_hand(x)
    assert list(bank.model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias", "1.lora_A", "1.lora_B"]
    assert [type(layer) for layer in by_hand] == [loralib.Linear, Own]
    assert all(layer._parameters["weight"] is weight for layer, weight in zip(by_hand, weights))
    with bank.rows(["blocks", "default"]):
        close(by_hand(x), torch.stack([outputs["blocks"][0], outputs["default"][1]]), atol=1e-4)
    bank.activate("default")
    assert torch.equal(by_hand(x), first)


def test_a_model_built_by_hand_with_rank_0_takes_lora_and_folders(tmp_path):
    def by_hand():
        torch.manual_seed(0)
        return nn.Sequential(loralib.MergedLinear(6, 9, enable_lora=Q_V, fan_in_fan_out=True), loralib.Linear(9, 2))

    model, x = by_hand(), torch.randn(2, 6)
    weights = [layer.weight for layer in model]
    loralib.apply_lora(model, ["0", "1"], 2, 4, enable_lora={"0": Q_V})
    assert all(not weight.requires_grad and weight is layer.weight for weight, layer in zip(weights, model))
    output = filled(model)(x)
    loralib.save_adapter(model, tmp_path)
    assert torch.equal(loralib.load_adapter(by_hand(), tmp_path)(x), output)
    close(loralib.remove_lora(model)(x), output, atol=1e-4)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]


# --- sums ------------------------------------------------------------------------------------------------------------


def test_a_weighted_sum_has_the_sum_of_the_updates_in_every_kind_of_layer():
    bank = loralib.Adapters(net())
    for r, (name, targets) in enumerate({"a": EVERY_KIND, "b": EVERY_KIND, "c": ["query"]}.items(), start=1):
        blocks = {"enable_lora": {"c_attn": Q_V}} if "c_attn" in targets else {}
        bank.add(name, targets=targets, r=r, alpha=3, use_rslora=name == "b", **blocks)
        bank.activate(name)
        filled(bank.model, seed=r)
    weights = {"c": 2.0, "a": 0.7, "b": -0.4}
    bank.add_weighted("sum", weights)
    dense = {}
    for name, weight in weights.items():
        bank.activate(name)
        for path, layer in lora_layers(bank.model).items():
            dense[path] = dense.get(path, 0) + weight * layer.delta_weight()
    bank.activate("sum")
    layers = lora_layers(bank.model)
    assert layers.keys() == dense.keys()
    for path, layer in layers.items():
        close(layer.delta_weight(), dense[path], atol=1e-5)
        assert layer.r == (6 if path.endswith(".query") else 3)
    bank.activate(None)


def test_a_sum_of_updates_of_other_blocks_is_refused():
    bank = gpt2_bank()
    with pytest.raises(ValueError, match=r"h\.0\.attn\.c_attn: updates of other blocks cannot be summed"):
        bank.add_weighted("mix", {"fused": 1.0, "whole": 1.0})
    with pytest.raises(ValueError, match="weights must be finite"):
        bank.add_weighted("mix", {"fused": float("nan")})
    assert bank.names == ("fused", "whole")


def test_a_sum_can_be_saved_and_has_factors_of_its_own(tmp_path):
    bank = gpt2_bank()
    bank.add_weighted("half", {"fused": 0.5})
    bank.activate("half")
    loralib.save_adapter(bank.model, tmp_path)
    output = bank.model(TOKENS).logits
    close(loralib.load_adapter(gpt2(), tmp_path)(TOKENS).logits, output)
    bank.activate("fused")
    randomize(bank.model)
    bank.activate("half")
    assert torch.equal(bank.model(TOKENS).logits, output)


# --- rows of a batch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("names", [ROWS, ["whole"] * 4, [None] * 4, ["fused", "whole"] * 2], ids=str)
@pytest.mark.parametrize("active", [None, "whole"])
def test_a_mixed_batch_computes_what_each_row_computes_alone(kind, names, active):
    make, adapters = MODELS[kind]
    bank = bank_of(make(), adapters)
    expected = row_by_row(bank, names)
    bank.activate(active)
    before = bank.model(TOKENS).logits
    with bank.rows(names):
        close(bank.model(TOKENS).logits, expected)
        with torch.inference_mode():
            close(bank.model(TOKENS).logits, expected)
    assert bank.active == active
    assert torch.equal(bank.model(TOKENS).logits, before)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_generates_what_each_row_generates_alone(kind, beams):
    make, adapters = MODELS[kind]
    bank = bank_of(make(), adapters)
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "pad_token_id": 0}

    def generated(rows):
        return bank.model.generate(rows, attention_mask=torch.ones_like(rows), **settings)

    expected = [alone(bank, name, lambda row=row: generated(row[None])) for name, row in zip(ROWS, TOKENS)]
    with bank.rows(ROWS):
        tokens = generated(TOKENS)
    assert not torch.equal(tokens, generated(TOKENS))
    assert torch.equal(tokens, torch.cat(expected))


def test_rows_of_unequal_blocks_and_ranks_add_their_own_updates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 9, bias=False))
    blocks = {"enable_lora": [True, False, True], "block_sizes": [4, 2, 3]}
    adapters = {
        "a": {"targets": "0", "r": 2, "alpha": 3, **blocks},
        "b": {"targets": "0", "r": 1, "alpha": 1, **blocks, "enable_lora": [False, True, False]},
        "c": {"targets": "0", "r": 5, "alpha": 2},
    }
    bank, x = bank_of(model, adapters), torch.randn(4, 2, 3, 5)
    expected = [alone(bank, name, lambda row=row: model(row)) for name, row in zip(["c", "a", None, "b"], x)]
    with bank.rows(["c", "a", None, "b"]):
        close(model(x), torch.stack(expected))
        close(model(x.flatten(0, 2)), torch.cat([row.flatten(0, 1) for row in expected]))  # (rows * positions, in)
        assert model(x[:0]).shape == (0, 2, 3, 9)


def test_gradients_of_a_mixed_batch_are_those_of_its_rows():
    bank = gpt2_bank()
    parameters = [p for name in bank.names for p in factors(bank, name).values()]
    gradients = []
    for mixed in (False, True):
        if mixed:
            with bank.rows(ROWS):
                bank.model(TOKENS).logits.square().sum().backward()
        else:
            row_by_row(bank, ROWS).square().sum().backward()
        gradients.append([p.grad for p in parameters])
        for p in parameters:
            p.grad = None
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_gives_a_mixed_batch_the_same_gradients():
    bank, gradients = gpt2_bank(), []
    parameters = [p for name in bank.names for p in factors(bank, name).values()]
    for module in bank.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for checkpointing in (False, True):
        if checkpointing:
            bank.model.gradient_checkpointing_enable({"use_reentrant": False})
        with bank.rows(ROWS):
            bank.model.train()(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        gradients.append([p.grad for p in parameters])
        for p in parameters:
            p.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_factors_that_change_inside_the_block_are_used():
    bank = gpt2_bank()
    parameters = [p for name in bank.names for p in factors(bank, name).values()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with bank.rows(ROWS):
        with torch.no_grad():
            before = bank.model(TOKENS).logits
        bank.model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        with torch.inference_mode():
            after = bank.model(TOKENS).logits.clone()
        bank.model(TOKENS, labels=TOKENS).loss.backward()
    assert (before - after).abs().max() > 1e-5
    close(row_by_row(bank, ROWS), after)


def test_merged_layers_stay_merged_and_count_in_no_row():
    bank = gpt2_bank(merge_weights=True)
    expected = row_by_row(bank, ROWS)
    bank.activate("fused")
    merged = bank.model(TOKENS).logits
    with bank.rows(ROWS):
        close(bank.model(TOKENS).logits, expected)
    assert all(layer.merged for layer in lora_layers(bank.model).values())
    assert torch.equal(bank.model(TOKENS).logits, merged)


@pytest.mark.parametrize("mode", ["bf16 base", "autocast"])
def test_half_precision_differs_by_its_rounding_alone(mode):
    model = gpt2().to(torch.bfloat16) if mode == "bf16 base" else gpt2()
    bank = bank_of(model)
    assert {p.dtype for p in factors(bank, "fused").values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        expected = row_by_row(bank, ROWS)
        with bank.rows(ROWS):
            mixed = bank.model(TOKENS).logits
    assert mixed.dtype == expected.dtype
    error = (mixed - expected).abs().max()
    assert error < 0.05 * expected.abs().max()


def test_in_train_mode_each_row_has_the_dropout_of_its_adapter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 3))
    settings = {"targets": "0", "r": 2, "alpha": 2}
    bank = bank_of(model, {"none": settings, "half": {**settings, "dropout": 0.5}, "all": {**settings, "dropout": 1.0}})
    model.train()
    x = torch.randn(4, 6, 50)
    updates = alone(bank, None, lambda: model(x))
    with bank.rows(["none", "half", "all", None]):
        found = [model(x) - updates for _ in range(400)]
    eval_half = alone(bank, "half", lambda: model.eval()(x[1]) - updates[1])
    close(found[0][0], alone(bank, "none", lambda: model(x[0])) - updates[0], atol=1e-5)
    assert not torch.equal(found[0][1], found[1][1])
    deviation = (torch.stack(found)[:, 1].mean(0) - eval_half).abs().max()
    assert deviation < 0.25 * torch.stack(found)[:, 1].std(0).max()  # of 400 draws: 5 standard errors
    assert not torch.stack(found)[:, 2:].any()


def test_layers_that_keep_their_own_forward_pass_mix_too():
    class Own(nn.Linear):
        def forward(self, input):
            return super().forward(input).sin()

    torch.manual_seed(0)
    model, x = nn.Sequential(Own(5, 4)), torch.randn(3, 5)
    settings = {"targets": "0", "r": 2, "alpha": 2}
    bank = bank_of(model, {"a": settings, "b": settings})
    expected = {name: alone(bank, name, lambda: model(x)) for name in (None, "a", "b")}
    for active in (None, "a"):
        bank.activate(active)
        with bank.rows(["a", None, "b"]):
            close(model(x), torch.stack([expected["a"][0], expected[None][1], expected["b"][2]]))
    assert type(model[0]).__name__ == "BesideOwn"


def test_hooks_see_the_output_with_its_update():
    bank, seen = gpt2_bank(), []
    bank.model.transformer.h[0].attn.c_attn.register_forward_hook(lambda module, args, output: seen.append(output))
    with bank.rows(["whole"]):
        bank.model(TOKENS)
    alone(bank, "whole", lambda: bank.model(TOKENS))
    close(*seen, atol=1e-5)


def test_a_forward_function_on_a_module_itself_computes_the_base():
    bank = gpt2_bank()
    layer = bank.model.transformer.h[0].mlp.c_fc
    own = layer.forward
    layer.forward = lambda x: own(x)  # as device maps put it there
    expected = row_by_row(gpt2_bank(), ROWS)
    with bank.rows(ROWS):
        close(bank.model(TOKENS).logits, expected)
    assert "forward" in vars(layer)


def test_an_error_inside_the_block_leaves_nothing_behind():
    bank = gpt2_bank()
    before = {path: (type(module), set(vars(module))) for path, module in bank.model.named_modules()}
    with pytest.raises(KeyError), bank.rows(["whole"]):
        raise KeyError
    assert {path: (type(module), set(vars(module))) for path, module in bank.model.named_modules()} == before
    bank.activate("whole")  # the bank is free again


@pytest.mark.slow
def test_a_compiled_model_switches_and_mixes():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(3, 5)
    bank = bank_of(model, {"a": {"targets": ["0", "2"], "r": 2, "alpha": 2}, "b": {"targets": "2", "r": 1, "alpha": 3}})
    expected = {name: alone(bank, name, lambda: model(x)) for name in (None, "a", "b")}
    compiled = torch.compile(model, backend="eager")
    for name in (None, "a", "b", None):
        bank.activate(name)
        close(compiled(x), expected[name])
    for names in (["a", "b", None], ["b", "a", "a"]):
        with bank.rows(names):
            close(compiled(x), torch.stack([expected[name][i] for i, name in enumerate(names)]))
    close(compiled(x), expected[None])


# --- copies and refusals ---------------------------------------------------------------------------------------------


def test_a_copy_of_the_model_has_the_active_adapter_and_a_copy_of_the_bank_all():
    bank = gpt2_bank()
    bank.activate("whole")
    output = bank.model(TOKENS).logits
    buffer = io.BytesIO()
    torch.save(bank.model, buffer)
    buffer.seek(0)
    for model in (copy.deepcopy(bank.model), torch.load(buffer, weights_only=False)):
        assert torch.equal(model(TOKENS).logits, output)
        assert loralib.Adapters(model).names == ("default",)
    other = copy.deepcopy(bank)
    other.activate("fused")
    randomize(other.model)
    assert torch.equal(bank.model(TOKENS).logits, output)
    close(row_by_row(other, ["whole"] * 4), output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bank: bank.add("fused", targets="c_fc", r=1, alpha=1), "needs a name of its own, got 'fused'"),
        (lambda bank: bank.add("", targets="c_fc", r=1, alpha=1), "needs a name of its own"),
        (lambda bank: bank.add("new"), "give either an adapter folder, or targets"),
        (lambda bank: bank.add("new", "folder", targets="c_fc"), "give either an adapter folder, or targets"),
        (lambda bank: bank.add("new", targets="c_fc", r=1, alpha=1, trainable="ln_f"), "trainable: heads and biases"),
        (lambda bank: bank.add("new", targets="c_ffc", r=1, alpha=1), "matches no module"),
        (lambda bank: bank.add("new", targets="c_fc", r=0, alpha=1), "r=0 adapts nothing"),
        (lambda bank: bank.activate("none"), "unknown adapter 'none'; choose from fused, whole"),
        (lambda bank: bank.remove("none"), "unknown adapter 'none'"),
        (lambda bank: bank.add_weighted("new", {"none": 1.0}), "unknown adapter 'none'"),
        (lambda bank: bank.add_weighted("new", {}), "weights must be finite numbers"),
        (lambda bank: bank.rows(["fused", "none"]).__enter__(), "unknown adapter 'none'"),
        (lambda bank: bank.rows("fused").__enter__(), "a sequence of names"),
        (lambda bank: bank.rows([]).__enter__(), "a sequence of names"),
    ],
)
def test_what_is_refused_changes_nothing(change, message):
    bank = gpt2_bank()
    bank.activate("whole")
    before = {key: (p, bits([p]), p.requires_grad) for key, p in bank.model.named_parameters()}
    state, random = (bank.names, bank.active), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        change(bank)
    assert (bank.names, bank.active) == state
    after = {key: (p, bits([p]), p.requires_grad) for key, p in bank.model.named_parameters()}
    assert list(after) == list(before)
    assert all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(after.values(), before.values()))
    assert torch.equal(torch.get_rng_state(), random)


def test_a_folder_with_a_head_or_biases_is_refused(tmp_path):
    model = loralib.apply_lora(gpt2(), "c_attn", 2, 4, trainable="ln_f")
    loralib.save_adapter(model, tmp_path / "head")
    loralib.save_adapter(loralib.apply_lora(gpt2(), "c_attn", 2, 4, bias="all"), tmp_path / "bias", bias="all")
    bank = loralib.Adapters(gpt2())
    for folder in ("head", "bias"):
        with pytest.raises(ValueError, match="has more than factors"):
            bank.add("new", tmp_path / folder)
    with pytest.raises(FileNotFoundError):
        bank.add("new", tmp_path / "nothing")
    assert list(bank.model.state_dict()) == list(gpt2().state_dict())


def test_only_linear_layers_mix_in_a_batch():
    bank = loralib.Adapters(net())
    for kind in ("wte", "conv"):
        bank.add(kind, targets=kind, r=2, alpha=2)
        with pytest.raises(ValueError, match=f"adapter '{kind}' has {kind}, a .*; only linear layers mix"):
            bank.rows([kind, None]).__enter__()
    attention = nn.Sequential(nn.MultiheadAttention(4, 2))
    bank = loralib.Adapters(attention)
    bank.add("attention", targets="0", r=1, alpha=1)
    with pytest.raises(ValueError, match="only linear layers mix"):
        bank.rows(["attention"]).__enter__()


def test_a_batch_that_is_no_multiple_of_the_rows_is_refused():
    bank = gpt2_bank()
    with bank.rows(ROWS[:3]), pytest.raises(ValueError, match=r"c_attn got an input of shape \(4, 5, 12\) for 3 rows"):
        bank.model(TOKENS)
    assert torch.equal(bank.model(TOKENS).logits, gpt2()(TOKENS).logits)


def test_inside_a_mixed_batch_the_bank_cannot_be_changed():
    bank = gpt2_bank()
    changes = [
        lambda: bank.rows(ROWS).__enter__(),
        lambda: bank.activate("fused"),
        lambda: bank.remove("fused"),
        lambda: bank.add("new", targets="c_fc", r=1, alpha=1),
        lambda: bank.add_weighted("new", {"fused": 1.0}),
    ]
    with bank.rows(ROWS):
        for change in changes:
            with pytest.raises(RuntimeError, match=r"the block of rows\(\.\.\.\) is still open"):
                change()
    assert bank.names == ("fused", "whole")


def test_lora_put_on_or_taken_off_from_outside_is_noticed():
    bank = gpt2_bank()
    loralib.apply_lora(bank.model, "c_fc", 1, 1)
    with pytest.raises(RuntimeError, match="put on the model, or taken off, from outside"):
        bank.activate("fused")
    loralib.remove_lora(bank.model, merge=False)
    bank.activate("fused")
    loralib.remove_lora(bank.model)
    with pytest.raises(RuntimeError, match="put on the model, or taken off, from outside"):
        bank.activate(None)


def test_an_adapter_that_is_removed_is_forgotten():
    bank = gpt2_bank()
    bank.activate("fused")
    bank.remove("whole")
    assert (bank.names, bank.active) == (("fused",), "fused")
    bank.remove("fused")
    assert (bank.names, bank.active) == ((), None)
    assert torch.equal(bank.model(TOKENS).logits, gpt2()(TOKENS).logits)


def test_new_parameters_of_the_active_adapter_stay_with_it():
    bank = gpt2_bank()
    bank.activate("fused")
    state = {key: value + 1 for key, value in bank.model.state_dict().items() if "lora_" in key}
    bank.model.load_state_dict(state, strict=False, assign=True)
    output = bank.model(TOKENS).logits
    bank.activate("whole")
    bank.activate("fused")
    assert torch.equal(bank.model(TOKENS).logits, output)
