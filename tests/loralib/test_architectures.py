"""LoRA on transformers' architectures computes what PEFT computes, and its files go both ways."""

from __future__ import annotations

import re

import pytest
import torch
from architecture_table import fixed_cells

import loralib
from tests.loralib.architectures import ARCHITECTURES, ROWS, base
from tests.loralib.peft_pair import ALPHA, CLOSE, Pair, R, all_linear, random_adapter
from tests.shared_data import REPOSITORY

FAST = ("GPT-2", "Llama", "BERT")

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and PEFT


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in ROWS],
)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("adapters"))


def test_as_many_parameters_train_as_with_peft(pair):
    ours, theirs = pair.counts()
    assert ours < theirs if pair.row.fused else ours == theirs  # PEFT has no blocks: B is zero outside them


def test_the_update_is_felt(pair):
    assert pair.effect() > 1e-2


def test_peft_computes_the_same_from_our_folder(pair):
    assert pair.eval_distance() < CLOSE
    assert pair.train_distance() < CLOSE


def test_we_compute_the_same_from_pefts_folder(pair):
    assert pair.reading_distance() < CLOSE
    assert pair.returning_distance() < CLOSE


def test_merging_keeps_the_logits(pair):
    assert all((value or 0.0) < CLOSE for value in pair.merged_distances())


def test_without_the_update_the_logits_are_those_of_the_base(pair):
    assert pair.disabled_is_base()


def test_greedy_tokens_are_those_of_peft(pair):
    assert pair.generates_the_same() is not False


def test_gradients_are_those_of_peft(pair):
    assert (pair.gradient_distance() or 0.0) < CLOSE


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_keeps_the_gradients(pair, use_reentrant):
    assert (pair.checkpointing_distance(use_reentrant) or 0.0) < CLOSE


# --- which layers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_names_the_layers_that_peft_names(name):
    ours, theirs = all_linear(name)
    if theirs is None:  # PEFT has no LoRA for the output projection of a Mamba
        theirs = sorted(path for path, _ in base(name).named_modules() if path.endswith("_proj"))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3), ids=["query", "key", "value"])
@pytest.mark.parametrize("name", ["GPT-2, blocks", "Phi-3, blocks", "GPT-BigCode, blocks"])
def test_a_block_of_a_fused_projection_is_the_query_key_or_value(name, block):
    row = ROWS[name]
    fused = row.fused | {"enable_lora": [i == block for i in range(3)]}
    caches = []
    for model in (base(name), random_adapter(loralib.apply_lora(base(name), row.targets, R, ALPHA, **fused))):
        with torch.no_grad():
            caches.append(model(**row.inputs(), use_cache=True).past_key_values.layers[0])
    plain, adapted = caches
    assert torch.equal(plain.keys, adapted.keys) == (block != 1)
    assert torch.equal(plain.values, adapted.values) == (block != 2)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.nn.Sequential(model)], ids=["model", "part"])
@pytest.mark.parametrize("name", ["GPT-NeoX", "BLOOM", "Falcon", "DeBERTa"])
def test_blocks_of_a_projection_interleaved_by_head_are_refused(name, wrap):
    with pytest.raises(ValueError, match="interleaves query, key and value"):
        loralib.apply_lora(wrap(base(name)), ROWS[name].targets, R, ALPHA, enable_lora=[True, False, True])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, [16, 16, 32]])
def test_grouped_queries_need_the_sizes_of_their_blocks(sizes):
    with pytest.raises(ValueError, match=re.escape("pass block_sizes=[32, 16, 16]")):
        loralib.apply_lora(base("Phi-3"), "qkv_proj", R, ALPHA, enable_lora=[True, False, True], block_sizes=sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tied])
def test_a_head_tied_to_an_adapted_embedding_keeps_the_frozen_table(name):
    model = random_adapter(loralib.apply_lora(base(name), ROWS[name].targets, R, ALPHA))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.weight is dict(embedding.named_parameters())["weight"]
    assert torch.equal(head.weight, base(name).get_output_embeddings().weight)
    with pytest.raises(ValueError, match="merging unties them: pass untie=True"):
        loralib.remove_lora(model)
    merged = loralib.remove_lora(model, untie=True)
    assert torch.equal(head.weight, base(name).get_output_embeddings().weight)
    assert not torch.equal(merged.get_input_embeddings().weight, head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x_proj", "dt_proj", "out_proj"])
def test_an_update_of_mamba_holds_where_its_code_reads_the_weight(target):
    """On a CPU transformers reads the weight of ``dt_proj``; its CUDA kernels also read ``x_proj`` and ``out_proj``."""
    model = random_adapter(loralib.apply_lora(base("Mamba"), target, R, ALPHA))
    inputs = ROWS["Mamba"].inputs()
    with torch.no_grad():
        layer = model.backbone.layers[0].mixer.get_submodule(target)
        torch.testing.assert_close(layer.weight, layer.merged_weight)
        logits = model(**inputs).logits
        assert (logits - base("Mamba")(**inputs).logits).abs().max() > 1e-4
        torch.testing.assert_close(loralib.remove_lora(model)(**inputs).logits, logits, rtol=0, atol=CLOSE)


# --- the page --------------------------------------------------------------------------------------------------------


def cells_of_page() -> dict[str, list[str]]:
    """First cell of each row of the page's table to its cells."""
    page = (REPOSITORY / "docs" / "apply_lora.md").read_text(encoding="utf-8")
    table = page.split("<!-- architectures -->")[1].split("<!-- /architectures -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {cells[0]: cells for cells in rows}


def test_the_page_has_exactly_the_rows_that_are_tested():
    assert list(cells_of_page()) == list(ROWS)


def test_the_page_shows_no_difference():
    for cells in cells_of_page().values():
        numbers = [float(number) for cell in cells[4:] for number in cell.split(", ") if number[0].isdigit()]
        assert numbers and max(numbers) < CLOSE
        assert {cell for cell in cells[4:] if cell[0].isalpha()} <= {"same", "refused", "PEFT refuses"}


def test_the_page_shows_targets_layers_and_counts(pair):
    assert cells_of_page()[pair.name][:4] == fixed_cells(pair)
