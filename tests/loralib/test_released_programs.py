"""What programs written for the released package do: each computes the same here, or gets a clear error."""

from __future__ import annotations

import copy
import io
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import loralib
from tests.loralib.toys import ALL_KINDS, KINDS, randomize, toy, toy_input


def encoder_layer(**options) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, **options)


def filled(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    randomize(model)
    return model


X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2))

# --- operands of every layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("bias", ["strided", "expanded", "offset"])
@pytest.mark.parametrize("weight", ["contiguous", "transposed", "strided"])
def test_large_layers_take_strided_and_expanded_operands(weight, bias, mode):
    torch.manual_seed(0)
    n_in, n_out = 520, 512  # large enough for the fast products that a CPU has
    weights = {
        "contiguous": torch.randn(n_out, n_in),
        "transposed": torch.randn(n_in, n_out).T,
        "strided": torch.randn(n_out, 2 * n_in)[:, ::2],
    }
    biases = {
        "strided": torch.randn(2 * n_out)[::2],
        "expanded": torch.randn(1).expand(n_out),
        "offset": torch.randn(n_out + 3)[3:],
    }
    layer = filled(loralib.Linear(n_in, n_out, r=2))
    layer.weight = nn.Parameter(weights[weight] / n_in**0.5, requires_grad=False)
    layer.bias = nn.Parameter(biases[bias], requires_grad=False)
    x = torch.randn(64, 2 * n_in)[:, ::2]
    effective = layer.weight + layer.delta_weight()
    torch.testing.assert_close(layer.train(mode)(x), x @ effective.T + layer.bias, rtol=1e-3, atol=1e-3)
    plain = nn.Sequential(nn.Linear(n_in, n_out))
    plain[0].weight, plain[0].bias = layer.state_dict(keep_vars=True)["weight"], layer.bias
    expected = plain(x)
    assert torch.equal(loralib.apply_lora(plain, "0", 2, 4).train(mode)(x), expected)


def test_a_sparse_weight_works():
    layer = filled(loralib.Linear(8, 6, r=2, bias=False))
    dense = layer.weight.detach().clone()
    layer.weight = nn.Parameter(dense.to_sparse_csr(), requires_grad=False)
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), x @ (dense + layer.delta_weight()).T)


# --- merging ---------------------------------------------------------------------------------------------------------


class MergesByItself(loralib.Linear):
    """As CLIP adapters have it: the update is added to the weight in place, the forward pass is inherited."""

    def train(self, mode=True):
        nn.Linear.train(self, mode)
        update = (self.lora_B @ self.lora_A) * self.scaling
        if mode and self.merged:
            self.weight.data -= update.data
            self.merged = False
        elif not mode and not self.merged:
            self.weight.data += update.data
            self.merged = True


def test_a_subclass_that_merges_by_itself_counts_its_update_once():
    layer, x = filled(MergesByItself(16, 8, r=2)), X
    y = layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x), y)
    layer.train()
    torch.testing.assert_close(layer(x), y)


def test_a_program_that_merges_from_outside_is_unmerged_by_train():
    layer = filled(loralib.Linear(16, 8, r=2))
    y, before = layer(X), layer.weight.detach().clone()
    layer.weight.data += layer.delta_weight().detach()
    layer.merged = True
    torch.testing.assert_close(layer.eval()(X), y)
    torch.testing.assert_close(layer.train()(X), y)
    torch.testing.assert_close(layer.weight, before)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_weight_reads_the_merged_weight_while_merged_and_only_then(kind):
    layer = toy(kind)
    stored, update = layer.weight, layer.delta_weight().detach()
    layer.eval()
    torch.testing.assert_close(layer.weight, stored + update)
    assert (
        dict(layer.named_parameters())["weight"] is stored
        and layer.state_dict()["weight"].data_ptr() == stored.data_ptr()
    )
    with layer.lora_disabled():
        assert layer.weight is stored
    assert layer.train().weight is stored


@pytest.mark.parametrize("path", ["linear1", "self_attn.out_proj"])
def test_kernels_that_read_the_weight_of_a_layer_put_in_by_hand_see_its_update(path):
    layer = encoder_layer()
    parent = layer.get_submodule(path.rpartition(".")[0])
    old = layer.get_submodule(path)
    lora = loralib.Linear(old.in_features, old.out_features, r=2)
    lora.load_state_dict(old.state_dict(), strict=False)
    setattr(parent, path.rpartition(".")[2], lora)
    filled(layer).eval()
    dense = encoder_layer().eval()
    dense.get_submodule(path).weight.data += lora.delta_weight().detach()
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(layer(X), dense(X))


@pytest.mark.parametrize("fast_path", [True, False])
def test_an_encoder_of_torch_with_lora_is_the_same_in_training_and_in_the_fused_kernel(fast_path):
    model = nn.TransformerEncoder(encoder_layer(), 2)
    base = copy.deepcopy(model).eval().requires_grad_(False)  # torch folds products otherwise where a weight trains
    loralib.apply_lora(model, ["self_attn", "linear1", "linear2"], 2, 4, enable_lora={"self_attn": [True, False, True]})
    filled(model)
    y = model(X)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "lora_" in n)
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(X), y, rtol=1e-4, atol=1e-5)
            with loralib.disabled(model):
                assert torch.equal(model(X), base(X))
            loralib.remove_lora(model)
            torch.testing.assert_close(model(X), y, rtol=1e-4, atol=1e-5)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]


def test_attention_reads_no_dropout_and_says_so():
    with pytest.raises(
        ValueError, match=r"^self_attn reads its weights instead of calling layers, so no dropout can act"
    ):
        loralib.apply_lora(encoder_layer(), "self_attn", 2, 4, dropout=0.1)


def test_writing_into_the_merged_weight_is_an_error_when_it_would_be_lost():
    layer = toy("linear").eval()
    layer(toy_input("linear"))
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"the merged weight of a LoRA layer was written to.*call unmerge\(\)"):
        layer.train()
    assert not layer.merged and layer.train() is layer


def test_sharing_a_merged_weight_is_an_error_and_not_a_silent_copy():
    layer, head = toy("embedding").eval(), nn.Linear(6, 11, bias=False)
    with pytest.raises(TypeError, match="cannot assign"):
        head.weight = layer.weight


# --- files and pickles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_merged_state_dict_loads_into_the_plain_layer_strictly(kind):
    layer, x = toy(kind), toy_input(kind)
    plain = nn.Sequential(KINDS[kind][0](*KINDS[kind][1]))
    plain.load_state_dict(loralib.merged_state_dict(nn.Sequential(layer)))
    torch.testing.assert_close(plain(x), layer.eval()(x))
    assert list(loralib.merged_state_dict(layer)) == [name for name in layer.state_dict() if "lora_" not in name]


def released_in_eval(layer: nn.Module) -> dict[str, torch.Tensor]:
    """What the released package's ``state_dict()`` holds in eval mode: merged weights beside the factors."""
    return {**layer.state_dict(), "weight": layer.state_dict()["weight"] + layer.delta_weight().detach()}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_state_dict_saved_in_eval_mode_is_loaded_with_its_update_once(kind):
    layer, x = toy(kind), toy_input(kind)
    saved = {f"0.{name}": value for name, value in released_in_eval(layer).items()}
    other = nn.Sequential(toy(kind, seed=9))
    loralib.load_released_state_dict(other, saved, saved_in_eval=True)
    torch.testing.assert_close(other(x), layer(x))
    twice = nn.Sequential(toy(kind, seed=9))
    loralib.load_released_state_dict(twice, saved)
    assert not torch.allclose(twice(x), layer(x)), "nothing in the file tells that it was saved in eval mode"


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ["linear", "merged_fifo", "embedding", "conv2d"])
def test_pickles_of_the_released_package_load_with_their_update_once(kind, mode):
    layer, x = toy(kind), toy_input(kind)
    state = dict(layer.__getstate__())
    state["_parameters"], state["_modules"] = dict(state["_parameters"]), dict(state["_modules"])
    state = {k: v for k, v in state.items() if k not in ("lora_init", "use_rslora", "_merged_beside", "block_sizes")}
    state |= {"training": mode, "merged": not mode}
    if not mode:
        state["_parameters"]["weight"] = nn.Parameter(released_in_eval(layer)["weight"], requires_grad=False)
    if kind == "merged_fifo":
        state |= {"lora_ind": layer.lora_ind, "enable_lora": [True, False, True]}
    if kind == "conv2d":
        inner = nn.Conv2d(4, 6, 3)
        inner._parameters.update({name: state["_parameters"].pop(name) for name in ("weight", "bias")})
        own = ("stride", "padding", "dilation", "groups", "padding_mode", "transposed", "output_padding")
        own += ("_reversed_padding_repeated_twice", "in_channels", "out_channels", "kernel_size")
        state = {k: v for k, v in state.items() if k not in own}
        state["_modules"]["conv"] = inner
    loaded = type(layer).__new__(type(layer))
    loaded.__setstate__(state)
    assert loaded.merged == (not mode)
    torch.testing.assert_close(loaded(x), layer(x))
    torch.testing.assert_close(loaded.train()(x), layer(x))
    assert list(loaded.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_convolutions_have_the_inner_layer_and_the_keys_of_the_released_sources(kind):
    layer, x = toy(kind), toy_input(kind)
    assert layer.conv.weight is layer.weight and layer.conv.bias is layer.bias
    with layer.lora_disabled():
        assert torch.equal(layer.conv(x), layer(x))
    keys = list(loralib.released_state_dict(nn.Sequential(layer)))
    assert keys == ["0.weight", "0.bias", "0.lora_A", "0.lora_B", "0.conv.weight", "0.conv.bias"]
    nn.Sequential(toy(kind, seed=9)).load_state_dict(loralib.released_state_dict(nn.Sequential(layer)))


def test_a_convolution_class_of_ones_own_works_and_one_with_other_code_is_refused():
    class Mine(nn.Conv2d):
        pass

    class Other(nn.Conv2d):
        def forward(self, input):
            return -super().forward(input)

    layer = filled(loralib.ConvLoRA(Mine, 4, 6, 3, r=2))
    x = toy_input("conv2d")
    assert isinstance(layer, Mine)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))
    with pytest.raises(TypeError, match="Other has a forward pass of its own"):
        loralib.ConvLoRA(Other, 4, 6, 3, r=2)


# --- small things ----------------------------------------------------------------------------------------------------


def test_helpers_of_the_released_fused_layer_are_there():
    layer = toy("merged_fifo")
    assert torch.equal(layer.merge_AB() * layer.scaling, layer.delta_weight())
    assert layer.lora_ind.tolist() == [True] * 6 + [False] * 6 + [True] * 6
    padded = layer.zero_pad(torch.ones(12, 3))
    assert torch.equal(padded.sum(1) == 3, layer.lora_ind)


def test_alpha_may_be_none_without_a_rank_and_a_tensor_with_one_number():
    assert loralib.Linear(3, 3, 0, None)(torch.ones(3)).shape == (3,)
    assert "lora_alpha=None" in repr(loralib.Linear(3, 3, 0, None))
    assert loralib.Linear(3, 3, 2, torch.tensor(4.0)).scaling == 2.0
    with pytest.raises(TypeError, match="lora_alpha must be a number"):
        loralib.Linear(3, 3, 2, nn.Parameter(torch.tensor(4.0)))


def test_names_of_the_released_module_can_be_imported():
    from loralib.layers import F as functional
    from loralib.layers import nn as network

    assert network is nn and functional is F


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_traced_layers_take_batches_of_other_sizes(kind, mode):
    layer, x = toy(kind).train(mode), toy_input(kind)
    other = torch.cat([x, x, x])
    torch.testing.assert_close(torch.jit.trace(layer, (x,))(other), layer(other))
    for root in (layer, nn.Sequential(layer)):
        torch.testing.assert_close(torch.fx.symbolic_trace(root)(other), layer(other))


def test_a_whole_model_is_switched_off_for_all_threads():
    model = filled(nn.Sequential(loralib.Linear(16, 16, r=2), loralib.Linear(16, 8, r=2)))
    y, seen = model(X), []
    with loralib.disabled(model):
        thread = threading.Thread(target=lambda: seen.append(model(X)))
        thread.start()
        thread.join()
        base = model(X)
    assert torch.equal(seen[0], base) and not torch.allclose(base, y) and torch.equal(model(X), y)


def test_an_embedding_that_was_resized_afterwards_is_refused_with_advice():
    layer = toy("embedding")
    layer.weight.data, layer.num_embeddings = torch.randn(20, 6), 20  # as transformers resizes
    for mode in (True, False):
        with pytest.raises(
            RuntimeError, match="table has 20 rows, but lora_A was made for 11; resize the embedding fir"
        ):
            layer.train(mode)(torch.tensor([15]))


# --- blocks of fused projections -------------------------------------------------------------------------------------


def with_config(**config) -> nn.Module:
    model = nn.Module()
    model.qkv_proj = nn.Linear(64, 96)
    model.config = types.SimpleNamespace(num_attention_heads=4, hidden_size=64, **config)
    return model


def test_grouped_queries_need_their_block_sizes_and_get_them():
    model = with_config(model_type="phi3", num_key_value_heads=1)
    with pytest.raises(
        ValueError, match=r"^qkv_proj has 4 query heads and 1 of key and value.*block_sizes=\[64, 16, 16\]"
    ):
        loralib.apply_lora(model, "qkv_proj", 2, 4, enable_lora=[True, False, True])
    x = torch.randn(3, 64)
    y = model.qkv_proj(x)
    loralib.apply_lora(model, "qkv_proj", 2, 4, enable_lora=[True, False, True], block_sizes=[64, 16, 16])
    changed = (filled(model).qkv_proj(x) - y).abs().amax(0) > 0
    assert changed[:64].all() and not changed[64:80].any() and changed[80:].all()
    torch.testing.assert_close(model.qkv_proj(x), F.linear(x, model.qkv_proj.merged_weight, model.qkv_proj.bias))


def test_interleaved_projections_are_refused():
    with pytest.raises(ValueError, match=r"^qkv_proj belongs to a gpt_neox model, whose fused projection interleaves"):
        loralib.apply_lora(with_config(model_type="gpt_neox"), "qkv_proj", 2, 4, enable_lora=[True, False, True])


@pytest.mark.parametrize("sizes", [[64, 16], [64, 16, 15], [64, 32, 0], [64.0, 16, 16]])
def test_block_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises((ValueError, TypeError), match="block_sizes must"):
        loralib.MergedLinear(64, 96, r=2, enable_lora=[True, False, True], block_sizes=sizes)


# --- half precision --------------------------------------------------------------------------------------------------


def test_small_steps_reach_the_factors_of_a_half_precision_model():
    model = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    filled(loralib.apply_lora(model, "0", 4, 8))
    before = model[0].lora_A.detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-5, weight_decay=0.0)
    for _ in range(5):
        model(torch.randn(8, 64, dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
    assert (model[0].lora_A != before).all() and model[0].lora_A.grad.dtype == torch.float32


def test_rslora_scales_by_the_root_of_the_rank():
    layer = loralib.Linear(8, 8, r=4, lora_alpha=6, use_rslora=True)
    assert layer.scaling == 3.0
    assert loralib.apply_lora(nn.Sequential(nn.Linear(4, 4)), "0", 4, 6, use_rslora=True)[0].scaling == 3.0


def test_lora_plus_groups_give_b_the_larger_rate_and_leave_nothing_out():
    model = nn.Sequential(loralib.Embedding(11, 6, r=2), loralib.Linear(6, 4, r=2), nn.Linear(4, 2))
    loralib.mark_only_lora_as_trainable(model)
    model[2].requires_grad_(True)
    slow, fast = loralib.lora_plus_groups(model, lr=1e-3, ratio=4, weight_decay=0.1)
    assert (slow["lr"], fast["lr"], fast["weight_decay"]) == (1e-3, 4e-3, 0.1)
    assert {id(p) for p in fast["params"]} == {id(model[0].lora_A), id(model[1].lora_B)}
    assert len(slow["params"]) + len(fast["params"]) == sum(p.requires_grad for p in model.parameters())
    torch.optim.AdamW([slow, fast])
    with pytest.raises(ValueError, match="no factor"):
        loralib.lora_plus_groups(nn.Linear(2, 2), lr=1e-3)


def test_a_copy_of_a_merged_model_through_a_file_computes_the_same():
    layer, x = toy("linear").eval(), toy_input("linear")
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), layer(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "normalise",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["weight_norm", "parametrized weight_norm", "parametrized spectral_norm"],
)
def test_weight_norms_of_torch_work_on_a_lora_layer(normalise):
    layer = filled(loralib.Linear(16, 8, r=2))
    normalise(layer).eval()
    layer.unmerge()
    y = layer(X)
    torch.testing.assert_close(y, F.linear(X, layer.weight + layer.delta_weight(), layer.bias))
    layer.merge()
    torch.testing.assert_close(layer(X), y)


def test_pruning_works_on_a_lora_layer():
    layer = filled(loralib.Linear(16, 8, r=2))
    prune.l1_unstructured(layer, "weight", amount=0.5)
    y = layer(X)
    torch.testing.assert_close(y, F.linear(X, layer.weight + layer.delta_weight(), layer.bias))
    torch.testing.assert_close(layer.eval()(X), y)
