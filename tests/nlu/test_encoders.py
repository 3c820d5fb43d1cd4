"""Every kind of encoder: what trains, one step against PEFT, files, heads for other labels, adapters, biases."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import peft
import pytest
import torch
from glue.adapters import HoulsbyOutput, PfeifferOutput
from glue.arguments import parse
from glue.checkpoint import fingerprint, read_trained, save_trained
from glue.export import merged_model
from glue.lora import InterleavedLinear
from glue.model import build_model, position_limit
from glue.trainable import count_parameters
from glue.weights import load_trained
from safetensors.torch import load_file, save_file
from state_dicts import lora_and_head
from transformers import AutoConfig, AutoModelForSequenceClassification

import loralib
from examples.common.errors import UserError
from examples.common.fsdp import trained_state_dict
from loralib.__main__ import main as loralib_command
from tests.nlu.world import make_tokenizer, read_json, run_here, sentences, train_flags

HIDDEN, LAYERS, R, ALPHA = 16, 2, 4, 8
SIZES = {
    **{"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24},
    **{"max_position_embeddings": 42, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    **{"type_vocab_size": 1, "pad_token_id": 1, "initializer_range": 0.3},
}
DISENTANGLED = {
    **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    **{"type_vocab_size": 0, "pooler_dropout": 0.0},
}
CONFIGS = {
    "bert": ("bert", {}),
    "roberta": ("roberta", {}),
    "distilbert": (
        "distilbert",
        {
            **{"dim": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 24},
            **{"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
        },
    ),
    "electra": ("electra", {"embedding_size": 8}),
    "deberta": ("deberta", DISENTANGLED),
    "deberta-v2": ("deberta-v2", {**DISENTANGLED, "share_att_key": True, "conv_kernel_size": 3}),
    "deberta-v3": (
        "deberta-v2",
        {**DISENTANGLED, "share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"},
    ),
    "albert": ("albert", {"embedding_size": 8}),
    "mpnet": ("mpnet", {}),
}
ATTENTION = {
    "bert": ("bert.encoder.layer.{}.attention.self", ("query", "value")),
    "roberta": ("roberta.encoder.layer.{}.attention.self", ("query", "value")),
    "distilbert": ("distilbert.transformer.layer.{}.attention", ("q_lin", "v_lin")),
    "electra": ("electra.encoder.layer.{}.attention.self", ("query", "value")),
    "deberta": ("deberta.encoder.layer.{}.attention.self", ("in_proj",)),
    "deberta-v2": ("deberta.encoder.layer.{}.attention.self", ("query_proj", "value_proj")),
    "deberta-v3": ("deberta.encoder.layer.{}.attention.self", ("query_proj", "value_proj")),
}
# the head's layers, and those of them that start fresh where the labels are others
HEADS = {
    "bert": (("bert.pooler.dense", "classifier"), ("classifier",)),
    "roberta": (("classifier.dense", "classifier.out_proj"),) * 2,
    "distilbert": (("pre_classifier", "classifier"), ("classifier",)),
    "electra": (("classifier.dense", "classifier.out_proj"),) * 2,
    "deberta": (("pooler.dense", "classifier"), ("classifier",)),
    "deberta-v2": (("pooler.dense", "classifier"), ("classifier",)),
    "deberta-v3": (("pooler.dense", "classifier"), ("classifier",)),
}
SEVEN = pytest.mark.parametrize("kind", HEADS)
LORA = ("--apply_lora", "--lora_r", R, "--lora_alpha", ALPHA)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folder of a small base model by kind, without a head, made when it is asked for."""
    folder, tokenizer = tmp_path_factory.mktemp("bases"), make_tokenizer([text for text, _ in sentences(160, 0)])

    def base(kind):
        if not (folder / kind).exists():
            model_type, changes = CONFIGS[kind]
            torch.manual_seed(1)
            config = AutoConfig.for_model(model_type, **{**SIZES, "vocab_size": len(tokenizer), **changes})
            AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(folder / kind)
            tokenizer.save_pretrained(folder / kind)
        return folder / kind

    return base


def build(base, *flags, labels=("a", "b"), seed=0):
    """What ``run_glue.py`` builds of a base and flags."""
    torch.manual_seed(seed)
    words = ["--model_name_or_path", base, "--task_name", "cola", "--output_dir", "x", "--do_train", *flags]
    model_args, _, _ = parse([str(word) for word in words])
    return build_model(model_args, task="cola", labels=labels, cls_dropout=None, pad_token_id=1)


def trained(model):
    """Trained parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def factors(kind):
    """Names of A and B of all adapted projections."""
    path, names = ATTENTION[kind]
    return {f"{path.format(i)}.{name}.lora_{f}" for i in range(LAYERS) for name in names for f in "AB"}


def with_random_update(model):
    """The model with normal numbers in what trains."""
    torch.manual_seed(5)
    for parameter in trained(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(model, rows=4, length=9):
    """Token ids with padding at the end, and labels."""
    torch.manual_seed(7)
    ids = torch.randint(5, model.config.vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[mask == 0] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % model.config.num_labels}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


# --- what trains -----------------------------------------------------------------------------------------------------


@SEVEN
def test_factors_and_head_are_trained_and_nothing_else(kind, bases):
    model = build(bases(kind), *LORA, labels=("a", "b", "c")).model
    head = {f"{layer}.{part}" for layer in HEADS[kind][0] for part in ("weight", "bias")}
    assert trained(model).keys() == factors(kind) | head
    counts = count_parameters(model)
    assert counts["trained_in_base"] == LAYERS * 2 * (R * HIDDEN + HIDDEN * R)  # query and value, A and B
    assert counts["trained_in_head"] == HIDDEN * HIDDEN + HIDDEN + 3 * HIDDEN + 3
    assert counts["all"] == sum(parameter.numel() for parameter in model.parameters())


@SEVEN
def test_the_update_starts_at_zero_and_changes_the_logits_once_it_is_not(kind, bases):
    built = build(bases(kind), *LORA)
    plain = build(bases(kind))
    plain.model.load_state_dict(
        {name: value for name, value in built.model.state_dict().items() if "lora_" not in name}
    )
    torch.testing.assert_close(logits_of(built.model), logits_of(plain.model), rtol=0, atol=1e-6)
    for name, parameter in trained(built.model).items():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert (logits_of(built.model) - logits_of(plain.model)).abs().max() > 1e-3


# --- one step against PEFT -------------------------------------------------------------------------------------------


def peft_twin(model, kind, base):
    """PEFT's model with the same weights, and for each of its trained parameters that of ours in the same shape.

    PEFT would send DeBERTa-v2's positions through the update; it gets the stock model that gives them projections of
    their own. It has one rank for DeBERTa's fused projection: B is zero but in the rows and columns of one block.
    """
    config = AutoConfig.from_pretrained(base, num_labels=model.config.num_labels)
    if getattr(config, "share_att_key", False):
        config.share_att_key = False
    plain = AutoModelForSequenceClassification.from_config(config).double()
    state = {name: value for name, value in model.state_dict().items() if "lora_" not in name}
    for name in plain.state_dict():
        state.setdefault(name, state.get(name.replace(".pos_query_", ".query_").replace(".pos_key_", ".key_")))
    plain.load_state_dict(state)
    fused = kind == "deberta"
    settings = {"r": 2 * R, "lora_alpha": 2 * ALPHA} if fused else {"r": R, "lora_alpha": ALPHA}
    heads = sorted({layer.removeprefix("bert.").split(".")[0] for layer in HEADS[kind][0]})
    names = list(ATTENTION[kind][1])
    twin = peft.get_peft_model(
        plain,
        peft.LoraConfig(target_modules=names, modules_to_save=heads, lora_dropout=0.0, **settings),
        autocast_adapter_dtype=False,
    )
    theirs = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".default.weight", ""): p
        for name, p in trained(twin).items()
    }
    return twin.train(), theirs


def in_place(kind, name, value):
    """B of a fused projection where PEFT has it: the rows of a head's query and value, the columns of each; A stays."""
    if kind != "deberta" or not name.endswith("lora_B"):
        return value, torch.ones_like(value, dtype=torch.bool)
    d, placed, where = HIDDEN // 2, value.new_zeros(3 * HIDDEN, 2 * R), torch.zeros(3 * HIDDEN, 2 * R, dtype=torch.bool)
    for head in range(2):
        for block, column in ((0, 0), (2, R)):
            rows = slice((3 * head + block) * d, (3 * head + block + 1) * d)
            start = (HIDDEN if block else 0) + head * d
            placed[rows, column : column + R] = value[start : start + d]
            where[rows, column : column + R] = True
    return placed, where


@SEVEN
def test_one_optimiser_step_is_that_of_peft(kind, bases):
    """The same A, B and head before; the same after, in float64 (some models compute norms in float32)."""
    model = with_random_update(build(bases(kind), *LORA, labels=("a", "b", "c")).model).double().train()
    ours = trained(model)
    twin, theirs = peft_twin(model, kind, bases(kind))
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(in_place(kind, name, ours[name])[0])
    before = {name: parameter.detach().clone() for name, parameter in ours.items()}
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name not in ours}
    for side in (model, twin):
        optimizer = torch.optim.AdamW([p for p in side.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        side(**batch(model)).loss.backward()
        optimizer.step()
    for name, parameter in ours.items():
        assert (parameter - before[name]).abs().max() > 1e-3, name
        expected, where = in_place(kind, name, parameter.detach())
        difference = (theirs[name] - expected)[where].abs().max()
        assert difference < 1e-6, f"{name}: {difference}"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())


def test_deberta_adapts_query_and_value_of_each_head_and_no_key(bases):
    """Against a dense update made row by row: a head's 3d rows of ``in_proj`` are its query, its key, its value."""
    model = with_random_update(build(bases("deberta"), *LORA).model)
    stock = merged_model(model)
    d = HIDDEN // 2
    for i in range(LAYERS):
        path = ATTENTION["deberta"][0].format(i) + ".in_proj"
        layer = model.get_submodule(path)
        assert isinstance(layer, InterleavedLinear)
        (A_q, A_v), (B_q, B_v) = layer.lora_A.detach().chunk(2), layer.lora_B.detach().chunk(2)
        expected = layer.weight.detach().clone()
        for head in range(2):
            rows, start = slice(head * d, (head + 1) * d), 3 * head * d
            expected[start : start + d] += ALPHA / R * B_q[rows] @ A_q
            expected[start + 2 * d : start + 3 * d] += ALPHA / R * B_v[rows] @ A_v
        torch.testing.assert_close(stock.get_submodule(path).weight.detach(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits_of(stock), logits_of(model), rtol=0, atol=1e-5)


# --- files -----------------------------------------------------------------------------------------------------------


def saved(built, folder):
    """File of what ``built`` trains."""
    folder.mkdir(parents=True, exist_ok=True)
    save_trained(folder / "pytorch_model_lora.bin", trained_state_dict(built.model), built.description)
    return folder


@pytest.mark.slow
@SEVEN
def test_a_saved_file_gives_the_same_logits_in_the_room_in_peft_and_merged(kind, bases, tmp_path, capsys):
    built = build(bases(kind), *LORA, labels=("a", "b", "c"))
    expected = logits_of(with_random_update(built.model))
    run = saved(built, tmp_path / "run")
    again = build(bases(kind), "--apply_lora", "--lora_path", run, labels=("a", "b", "c"), seed=3)
    assert again.head_is_trained and again.description == built.description
    assert torch.equal(logits_of(again.model), expected)
    torch.testing.assert_close(logits_of(merged_model(built.model)), expected, rtol=0, atol=1e-5)

    assert loralib_command(["inspect", str(run)]) == 0
    said = capsys.readouterr().out
    assert "checkpoint of the GLUE example" in said and HEADS[kind][0][0] in said
    base = bases(kind)
    assert loralib_command(["merge", str(base), str(run), "--out", str(tmp_path / "merged")]) == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), expected, rtol=0, atol=1e-5)
    export = ["export", str(run), "--base", str(base), "--out", str(tmp_path / "peft")]
    if kind in ("deberta-v2", "deberta-v3"):  # their positions would get the update
        assert loralib_command(export) == 2
        assert "PEFT would adapt both" in capsys.readouterr().err
        return
    assert loralib_command(export) == 0, capsys.readouterr().err
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "peft", num_labels=3)
    torch.testing.assert_close(logits_of(theirs), expected, rtol=0, atol=1e-5)


@SEVEN
def test_update_and_head_are_cut_out_of_a_complete_checkpoint(kind, bases):
    """As ``utils/split_lora.py`` does, which knows the names alone."""
    model = build(bases(kind), *LORA).model
    assert lora_and_head(model.state_dict()).keys() == trained(model).keys()


def test_blocks_that_a_file_of_deberta_does_not_explain_are_refused(bases, tmp_path, capsys):
    """Without the number of heads they would be put where the query of a fused projection usually is."""
    built = build(bases("deberta"), *LORA)
    torch.save(OrderedDict(trained_state_dict(built.model)), tmp_path / "bare.bin")
    given = ["--alpha", str(ALPHA), "--enable_lora", "1,0,1", "--out", str(tmp_path / "x")]
    assert loralib_command(["merge", str(bases("deberta")), str(tmp_path / "bare.bin"), *given]) == 2
    assert "in_proj has query, key and value head by head" in capsys.readouterr().err
    odd = replace(built.description, num_heads=3)
    save_trained(tmp_path / "odd.bin", trained_state_dict(built.model), odd)
    assert loralib_command(["inspect", str(tmp_path / "odd.bin")]) == 2
    assert "its record says num_heads 3, which does not divide" in capsys.readouterr().err


@SEVEN
def test_a_file_of_another_architecture_is_refused(kind, bases, tmp_path):
    kinds = list(HEADS)
    other = kinds[(kinds.index(kind) + 1) % len(kinds)]
    if other == "deberta-v3":  # same names, and so told apart by their weights alone
        other = "bert"
    run = saved(build(bases(other), *LORA), tmp_path / "run")
    with pytest.raises(UserError, match="was trained on another base model"):
        build(bases(kind), "--apply_lora", "--lora_path", run)
    tensors = OrderedDict(read_trained(run).tensors)  # as a released file, which does not name its base
    torch.save(tensors, tmp_path / "bare.bin")
    with pytest.raises(UserError, match=r"bare\.bin: .* has no place in .*another base model"):
        build(bases(kind), *LORA, "--lora_path", tmp_path / "bare.bin")


@SEVEN
def test_other_labels_start_a_fresh_last_layer_and_keep_the_rest(kind, bases, tmp_path, capsys):
    """From a file of trained weights, and from a whole model given as the base."""
    source = build(bases(kind), *LORA, labels=("a", "b", "c"))
    theirs = with_random_update(source.model).state_dict()
    target = build(bases(kind), *LORA, labels=("a", "b"))
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    tensors = trained_state_dict(source.model)
    assert not load_trained(target.model, tensors, tags=("lora",), source="mnli.bin")
    assert "its head has 3 labels, this task has 2; classifier.* starts fresh" in capsys.readouterr().err
    after = target.model.state_dict()
    fresh = tuple(f"{layer}." for layer in HEADS[kind][1])
    for name in tensors:
        expected = before if name.startswith(fresh) else theirs
        assert torch.equal(after[name], expected[name]), name
    whole = AutoModelForSequenceClassification.from_pretrained(bases(kind), num_labels=3)
    whole.save_pretrained(tmp_path)
    built = build(tmp_path, *LORA, labels=("a", "b"))
    assert not built.head_is_trained and "classifier.* starts fresh" in capsys.readouterr().err
    after = built.model.state_dict()
    for layer in HEADS[kind][0]:
        kept = layer not in HEADS[kind][1]
        assert kept == (
            after[f"{layer}.weight"].shape == whole.state_dict()[f"{layer}.weight"].shape
            and torch.equal(after[f"{layer}.weight"], whole.state_dict()[f"{layer}.weight"])
        ), layer


def test_the_pooler_of_bert_is_saved_and_restored_and_no_part_of_the_base(bases, tmp_path):
    """A base file without one gets a random pooler; then the file of the run is what brings it."""
    weights = {name: v for name, v in load_file(bases("bert") / "model.safetensors").items() if "pooler" not in name}
    for file in bases("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    built = build(tmp_path, *LORA)
    with_random_update(built.model)
    run = saved(built, tmp_path / "run")
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} <= read_trained(run).tensors.keys()
    fresh = build(tmp_path, *LORA, seed=1)
    assert not torch.equal(fresh.model.bert.pooler.dense.weight, built.model.bert.pooler.dense.weight)
    again = build(tmp_path, "--apply_lora", "--lora_path", run, seed=1)
    assert again.head_is_trained and torch.equal(logits_of(again.model), logits_of(built.model))
    plain = build(bases("bert")).model
    assert fingerprint(plain) == fingerprint(build(tmp_path).model) == built.description.base_fingerprint
    tensors = read_trained(run).tensors
    del tensors["bert.pooler.dense.weight"]
    assert not load_trained(build(tmp_path, *LORA).model, tensors, tags=("lora",), source="x"), "half a head is none"


# --- biases and adapters ---------------------------------------------------------------------------------------------


@SEVEN
def test_bitfit_trains_all_biases_and_the_head(kind, bases):
    model = build(bases(kind), "--apply_bitfit").model
    heads = tuple(f"{layer}." for layer in HEADS[kind][0])
    names = [name for name, _ in model.named_parameters()]
    assert trained(model).keys() == {name for name in names if name.startswith(heads) or name.endswith("bias")}
    assert any("LayerNorm.bias" in name or "layer_norm.bias" in name for name in trained(model))
    assert (kind != "deberta") or any(name.endswith("self.q_bias") for name in trained(model))


@pytest.mark.parametrize("adapter_type", ["houlsby", "pfeiffer"])
@SEVEN
def test_adapters_stand_behind_the_sub_layers_or_are_refused(kind, adapter_type, bases, tmp_path):
    flags = ["--apply_adapter", "--adapter_type", adapter_type, "--adapter_size", 3]
    if kind == "distilbert":
        with pytest.raises(UserError, match=r"knows the sub-layers of bert, .*; those of distilbert are others"):
            build(bases(kind), *flags)
        return
    built = build(bases(kind), *flags)
    model, heads = built.model, tuple(f"{layer}." for layer in HEADS[kind][0])
    places = 2 if adapter_type == "houlsby" else 1
    assert count_parameters(model)["trained_in_base"] == LAYERS * places * (2 * 3 * HIDDEN + 3 + HIDDEN)
    assert all(".adapter.adapter_" in name or name.startswith(heads) for name in trained(model))
    changed = [path for path, module in model.named_modules() if isinstance(module, HoulsbyOutput)]
    assert len(changed) == LAYERS * places
    for path in changed:  # with an adapter that gives zero the sub-layer is the stock one, with a LayerNorm more
        module = model.get_submodule(path)
        assert isinstance(module, PfeifferOutput) == (adapter_type == "pfeiffer")
        torch.nn.init.zeros_(module.adapter.adapter_B.weight)
        h, x = torch.randn(2, 5, module.dense.in_features), torch.randn(2, 5, HIDDEN)
        once = module.LayerNorm(module.dense(h) + x)
        expected = once if adapter_type == "houlsby" else module.LayerNorm(module.dense(h) + x)
        torch.testing.assert_close(module(h, x), expected)
    expected = logits_of(with_random_update(model))
    (tmp_path / "run").mkdir()
    save_trained(tmp_path / "run" / "pytorch_model_adapter.bin", trained_state_dict(model), built.description)
    again = build(bases(kind), *flags, "--adapter_path", tmp_path / "run", seed=2)
    assert again.head_is_trained and torch.equal(logits_of(again.model), expected)


# --- other targets, other models -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "deberta", "deberta-v2", "distilbert"])
def test_lora_stands_on_every_linear_layer_outside_the_head(kind, bases, tmp_path):
    built = build(bases(kind), *LORA, "--lora_targets", "all-linear")
    heads = tuple(HEADS[kind][0])
    plain = build(bases(kind)).model
    linear = {path for path, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    adapted = {path for path, module in built.model.named_modules() if isinstance(module, loralib.LoRALayer)}
    assert adapted == linear - set(heads)
    assert built.description.targets == ("all-linear",)
    expected = logits_of(with_random_update(built.model))
    again = build(bases(kind), "--apply_lora", "--lora_path", saved(built, tmp_path / "run"))
    assert torch.equal(logits_of(again.model), expected) and again.description == built.description
    torch.testing.assert_close(logits_of(merged_model(built.model)), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_targets_are_names_outside_the_head_and_the_file_says_them(bases, tmp_path):
    """``dense`` is the name of layers of the head too; ``in_proj`` by name is one update of the whole projection."""
    built = build(bases("bert"), *LORA, "--lora_targets", "dense", "query")
    names = {path.rsplit(".", 1)[-1] for path, m in built.model.named_modules() if isinstance(m, loralib.LoRALayer)}
    assert names == {"dense", "query"}
    assert type(built.model.bert.pooler.dense) is torch.nn.Linear
    run = saved(built, tmp_path / "run")
    start = ["--apply_lora", "--lora_path", run, "--lora_targets"]
    assert build(bases("bert"), *start, "query", "dense").head_is_trained
    with pytest.raises(UserError, match=r"--lora_targets key: .* was trained with dense query"):
        build(bases("bert"), *start, "key")
    whole = build(bases("deberta"), *LORA, "--lora_targets", "in_proj")
    layer = whole.model.deberta.encoder.layer[0].attention.self.in_proj
    assert type(layer) is loralib.Linear and layer.lora_B.shape == (3 * HIDDEN, R)
    again = build(bases("deberta"), "--apply_lora", "--lora_path", saved(whole, tmp_path / "whole"))
    assert type(again.model.deberta.encoder.layer[0].attention.self.in_proj) is loralib.Linear


@pytest.mark.parametrize(
    ("kind", "targets", "heads", "limit"),
    [
        ("albert", ("query", "value"), ("albert.pooler", "classifier"), 42),
        ("mpnet", ("attn.q", "attn.v"), ("classifier.dense", "classifier.out_proj"), 40),
    ],
)
def test_a_model_of_an_unknown_kind_needs_the_names_of_its_targets(kind, targets, heads, limit, bases, tmp_path):
    with pytest.raises(UserError, match=f"query and value are known for bert, .*; this model is {kind}: name the mod"):
        build(bases(kind), *LORA)
    built = build(bases(kind), *LORA, "--lora_targets", *targets)
    names = {name for name in trained(built.model) if "lora_" not in name}
    assert names == {f"{layer}.{part}" for layer in heads for part in ("weight", "bias")}
    assert position_limit(built.model) == limit
    expected = logits_of(with_random_update(built.model))
    again = build(bases(kind), "--apply_lora", "--lora_path", saved(built, tmp_path / "run"), seed=4)
    assert again.head_is_trained and torch.equal(logits_of(again.model), expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*LORA, "--lora_targets", "qery"], "--lora_targets: target 'qery' matches no module; did you mean query"),
        ([*LORA, "--lora_targets", "classifier"], "target 'classifier' matches no module"),
        ([*LORA, "--lora_targets", "LayerNorm"], "LayerNorm is a .*LayerNorm, which LoRA cannot adapt"),
        (["--apply_bitfit", "--lora_targets", "query"], "--lora_targets has an effect only with --apply_lora"),
    ],
)
def test_wrong_targets_are_one_line(flags, message, bases):
    with pytest.raises(UserError, match=message) as error:
        build(bases("bert"), *flags)
    assert "\n" not in str(error.value)


def test_a_head_that_cannot_be_told_is_one_line(bases, monkeypatch):
    monkeypatch.setattr("transformers.BertForSequenceClassification.base_model_prefix", "model")
    with pytest.raises(UserError, match="expected a module 'model' and outside of it a linear layer with 2 outputs"):
        build(bases("bert"), *LORA)


def test_a_model_without_biases_has_none_to_train(bases, monkeypatch):
    monkeypatch.setattr("glue.trainable.has_tag", lambda name, tags: False)
    with pytest.raises(UserError, match="--apply_bitfit: a bert model has no biases"):
        build(bases("bert"), "--apply_bitfit")


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*HEADS, "albert"])
def test_the_program_trains_and_evaluates_from_the_folder_that_it_saved(kind, bases, world, tmp_path, monkeypatch):
    out, again = tmp_path / "out", tmp_path / "again"
    base = ["--model_name_or_path", bases(kind)]
    targets = ["--lora_targets", "query", "value"] if kind == "albert" else []
    flags = [*LORA, *targets, *train_flags(epochs=1), "--do_eval", "--export_merged", tmp_path / "merged"]
    run_here(monkeypatch, *world.flags(out), *base, *flags)
    run_here(monkeypatch, *world.flags(again), *base, "--apply_lora", "--lora_path", out, "--do_eval")
    for key in ("eval_loss", "eval_matthews_correlation"):
        assert read_json(again / "eval_results.json")[key] == read_json(out / "eval_results.json")[key]
    merged = ["--model_name_or_path", tmp_path / "merged", "--do_eval"]
    run_here(monkeypatch, *world.flags(tmp_path / "stock"), *merged)
    loss = read_json(out / "eval_results.json")["eval_loss"]
    assert read_json(tmp_path / "stock" / "eval_results.json")["eval_loss"] == pytest.approx(loss, abs=1e-5)
