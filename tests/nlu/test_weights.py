"""Files of trained weights: the published layout in and out, heads for other labels, what must not be loaded."""

from __future__ import annotations

import zipfile
from collections import OrderedDict

import pytest
import torch
from glue.checkpoint import Description, read_trained, save_trained
from glue.lora import add_lora
from glue.trainable import count_parameters, mark_trainable
from glue.weights import hub_name, load_trained, resolve_lora
from transformers import RobertaConfig, RobertaForSequenceClassification

import loralib
from examples.common.errors import UserError
from examples.common.fsdp import trained_state_dict
from tests.nlu.world import RECORDED, recorded_deberta, recorded_roberta, tiny_gpt2

PUBLISHED = RECORDED["published_roberta_base_lora_mnli"]


def published_file(path):
    """Random numbers in the names, shapes and order of the published RoBERTa-base MNLI file."""
    draw = torch.Generator().manual_seed(5)
    tensors = OrderedDict(
        (name, torch.randn(facts["shape"], generator=draw) * 0.02) for name, facts in PUBLISHED["tensors"].items()
    )
    torch.save(tensors, path)
    tag_as_saved_from_a_gpu(path)
    return tensors


def tag_as_saved_from_a_gpu(path):
    """Gives the tensors of a ``torch.save`` file the place ``cuda:0``, as the published files have it."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (pickled,) = [name for name in members if name.endswith("/data.pkl")]
    assert members[pickled].count(text_in_pickle("cpu")) == 1  # later ones refer to the first
    members[pickled] = members[pickled].replace(text_in_pickle("cpu"), text_in_pickle("cuda:0"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def text_in_pickle(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def roberta_base(num_labels=3):
    """RoBERTa-base's sizes, random weights."""
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=num_labels, layer_norm_eps=1e-5
    )
    with torch.device("meta"):  # the weights do not matter here, and 125 million numbers take time
        model = RobertaForSequenceClassification(config)
    return model.to_empty(device="cpu")


@pytest.mark.slow
def test_the_published_layout_loads_into_roberta_base_and_is_saved_again_alike(tmp_path):
    tensors = published_file(tmp_path / "roberta_base_lora_mnli.bin")
    assert len(tensors) == 52
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
            torch.load(tmp_path / "roberta_base_lora_mnli.bin", weights_only=True)
    model = roberta_base()
    add_lora(model, r=8, lora_alpha=16)
    assert sum(isinstance(module, loralib.LoRALayer) for module in model.modules()) == 24
    file = read_trained(tmp_path / "roberta_base_lora_mnli.bin")
    assert load_trained(model, file.tensors, tags=("lora",), source="published")
    mark_trainable(model, ("lora",))
    assert count_parameters(model) == {"trained_in_base": 294912, "trained_in_head": 592899, "all": 124942851}
    save_trained(tmp_path / "again.bin", trained_state_dict(model), Description("lora", "roberta-base", "0" * 64))
    again = torch.load(tmp_path / "again.bin", weights_only=True)
    assert type(again) is OrderedDict
    assert list(again) == list(PUBLISHED["tensors"])
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    assert abs((tmp_path / "again.bin").stat().st_size - PUBLISHED["file_bytes"]) < 20_000


def with_lora(model, r=4):
    add_lora(model, r=r, lora_alpha=8)
    mark_trainable(model, ("lora",))
    return model


@pytest.mark.parametrize(
    ("make", "fresh", "kept"),
    [
        (recorded_roberta, ("classifier.dense.weight", "classifier.out_proj.weight"), ()),
        (recorded_deberta, ("classifier.weight",), ("pooler.dense.weight", "pooler.dense.bias")),
        (tiny_gpt2, ("score.weight",), ()),
    ],
    ids=["roberta", "deberta", "gpt2"],
)
def test_a_head_for_other_labels_starts_fresh_and_the_update_stays(make, fresh, kept, capsys):
    """MNLI's three labels into a task of two: RoBERTa loses its whole head, DeBERTa keeps MNLI's pooler."""
    source, target = with_lora(make(num_labels=3)), with_lora(make(num_labels=2))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    assert not load_trained(target, trained_state_dict(source), tags=("lora",), source="mnli.bin")
    after, theirs = target.state_dict(), source.state_dict()
    for name in after:
        if "lora_" in name or name in kept:
            assert torch.equal(after[name], theirs[name]), name
        else:
            assert torch.equal(after[name], before[name]), name
    assert all(torch.equal(after[name], before[name]) for name in fresh)
    assert "has 3 labels, this task has 2" in capsys.readouterr().err


def test_the_same_number_of_labels_keeps_the_head():
    source, target = with_lora(recorded_roberta()), with_lora(recorded_roberta())
    assert load_trained(target, trained_state_dict(source), tags=("lora",), source="x")
    assert torch.equal(target.classifier.out_proj.weight, source.classifier.out_proj.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("roberta.encoder.layer.1.attention.self.value.lora_A"), "1 trained weights are missing"),
        (lambda t: t.update({"roberta.other": torch.zeros(1)}), "roberta.other has no place"),
        (lambda t: t.update({next(iter(t)): torch.zeros(9, 32)}), r"shape \(9, 32\), the model \(4, 32\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_changes(change, message):
    source, target = with_lora(recorded_roberta()), with_lora(recorded_roberta())
    tensors = trained_state_dict(source)
    change(tensors)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_trained(target, tensors, tags=("lora",), source="x")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def written(tmp_path, description):
    path = tmp_path / "x.bin"
    tensors = trained_state_dict(with_lora(recorded_roberta()))
    if description is None:
        torch.save(tensors, path)
    else:
        save_trained(path, tensors, description)
    return read_trained(path)


def test_a_file_says_its_rank_and_alpha(tmp_path):
    file = written(tmp_path, Description("lora", "base", "0", r=4, lora_alpha=8, labels=("a", "b")))
    assert file.description.labels == ("a", "b")
    assert resolve_lora(file, None, None) == (4, 8)
    assert resolve_lora(file, 4, 8.0) == (4, 8)
    with pytest.raises(UserError, match=r"--lora_alpha 16: .* was trained with 8"):
        resolve_lora(file, None, 16)
    with pytest.raises(UserError, match=r"--lora_r 8: .* was trained with 4"):
        resolve_lora(file, 8, None)


def test_a_published_file_says_its_rank_but_needs_alpha(tmp_path):
    file = written(tmp_path, None)
    assert file.description is None
    assert resolve_lora(file, None, 16) == (4, 16)
    with pytest.raises(UserError, match="does not say its alpha"):
        resolve_lora(file, None, None)
    with pytest.raises(UserError, match=r"--lora_r 8: .* was trained with 4"):
        resolve_lora(file, 8, 16)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken", b"\x80\x02K\x01R."])
def test_a_file_that_is_no_weights_is_refused(content, tmp_path):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.bin: not a file of weights"):
        read_trained(tmp_path / "x.bin")


@pytest.mark.parametrize("raw", [{}, {"method": "lora", "base": "x"}])
def test_a_description_that_lacks_entries_is_refused(raw, tmp_path):
    tensors = trained_state_dict(with_lora(recorded_roberta()))
    tensors.description = raw
    torch.save(tensors, tmp_path / "x.bin")
    with pytest.raises(UserError, match=r"x\.bin: its description lacks .*base_fingerprint"):
        read_trained(tmp_path / "x.bin")


def test_names_of_the_adapter_hub_become_those_of_the_released_code():
    layer = "roberta.encoder.layer.3.output"
    assert hub_name(f"{layer}.adapters.sst2.adapter_down.0.bias", "sst2") == f"{layer}.adapter.adapter_A.bias"
    assert hub_name(f"{layer}.adapters.sst2.adapter_up.weight", "sst2") == f"{layer}.adapter.adapter_B.weight"
    assert hub_name("heads.sst2.1.weight", "sst2") == "classifier.dense.weight"
    assert hub_name("heads.sst2.4.bias", "sst2") == "classifier.out_proj.bias"


def test_initial_factors_are_those_of_the_released_code():
    """RoBERTa: uniform, 1/sqrt(in) at most; DeBERTa: normal with 0.02. B is zero, so nothing changes at the start."""
    sizes = {"hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2}
    for make, facts, extra in (
        (recorded_roberta, RECORDED["init_stats"]["roberta"], {}),
        (recorded_deberta, RECORDED["init_stats"]["deberta_v2"], {"attention_head_size": 128}),
    ):
        model = make(**sizes, **extra).eval()
        ids = torch.arange(8).reshape(1, 8)
        with torch.no_grad():
            plain = model(ids).logits
            add_lora(model, r=16, lora_alpha=16)
            # not to the bit: on some CPUs our layers multiply by another library than nn.Linear
            torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-6)
        factors = [value for name, value in model.named_parameters() if name.endswith("lora_A")]
        a = torch.cat([factor.flatten() for factor in factors])
        assert a.std().item() == pytest.approx(facts["A_std"], rel=0.03)
        assert (a.abs().max() <= 1 / 512**0.5) == (make is recorded_roberta)
