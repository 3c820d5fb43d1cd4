"""What ``run_clm.py`` trains and by which loss: properties of the four tasks and five methods on tiny models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clm.batches import Collator, packing_collator
from clm.features import IGNORED, Tokens, pack
from clm.heads import last_real
from clm.losses import token_losses
from clm.methods import Lora, apply_method, count_parameters
from clm.model import load_model, load_tokenizer
from clm.run_folder import Facts
from clm.sources import Row
from clm.texts import Dialogue, Labelled, dialogue
from clm.trainer import ClmTrainer
from torch.nn.functional import cross_entropy, log_softmax
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from examples.common.errors import UserError
from tests.clm.world import KINDS, LAYERS, POSITIONS, WIDTH, films, pairs, save_base, tiny_model, tiny_tokenizer

V = len(tiny_tokenizer())


def features(n: int = 5) -> list[dict[str, list[int]]]:
    tokens = Tokens(tiny_tokenizer(), POSITIONS)
    return [tokens.of_dialogue(dialogue(Row(str(i), row))) for i, row in enumerate(pairs(n))]


# --- features --------------------------------------------------------------------------------------------------------


def test_loss_counts_response_and_end_token_only():
    tokenizer = tiny_tokenizer(pad_token="<|end|>")
    feature = Tokens(tokenizer, POSITIONS).of_dialogue(Dialogue("x", "food: Bad\n", "yes no"))
    response = tokenizer("yes no")["input_ids"]
    assert [label for label in feature["labels"] if label != IGNORED] == [*response, tokenizer.eos_token_id]
    batch = Collator(tokenizer.pad_token_id)([feature, *features(2)])
    assert (batch["labels"][0] == tokenizer.eos_token_id).sum() == 1  # counted although padding has the same id


def test_filled_rows_count_prompt_response_and_padding_up_to_the_limit():
    tokenizer = tiny_tokenizer()
    end = tokenizer.eos_token_id
    tokens = Tokens(tokenizer, 32, fill=True)
    feature = tokens.of_dialogue(Dialogue("x", "food: Bad\n", "yes no"), loss_on_prompt=True)
    text = tokenizer("food: Bad\nyes no")["input_ids"]
    assert feature["input_ids"] == [*text, *[end] * (32 - len(text))]
    assert feature["labels"] == [IGNORED, *feature["input_ids"][1:]]
    alone = tokens.of_dialogue(Dialogue("x", "food: Bad\n", "yes no"))["labels"]
    assert [label for label in alone if label != IGNORED] == [
        *tokenizer("yes no")["input_ids"],
        *[end] * (32 - len(text)),
    ]
    cut = tokens.of_dialogue(Dialogue("x", "food: Bad\n", "yes no " * 40))
    assert len(cut["input_ids"]) == 32 and cut["input_ids"][-1] != end


def test_a_token_of_its_own_between_prompt_and_response_leaves_the_ids_of_the_whole_text(tmp_path):
    """As the data of Swift's study: the blank behind the token is the response's."""
    tokenizer = load_tokenizer(save_base(tmp_path), add_tokens=("<|ref|>",))
    row = Row("x", {"prompt": "food: French <|ref|>", "response": " Blue Spice serves French food."})
    ids = Tokens(tokenizer, POSITIONS).of_dialogue(dialogue(row, separator=""))["input_ids"]
    assert ids == [
        *tokenizer("food: French <|ref|> Blue Spice serves French food.")["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert ids.count(len(tokenizer) - 1) == 1


def test_whole_texts_count_every_token_but_the_first_once():
    tokenizer = tiny_tokenizer()
    text = "Blue Spice serves French food. " * 10
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    parts = Tokens(tokenizer, 8).of_text(text, "x")
    assert len(parts) > 2 and all(len(part["input_ids"]) <= 8 for part in parts)
    assert [label for part in parts for label in part["labels"] if label != IGNORED] == ids[1:]


def test_chat_counts_the_turns_of_the_assistant_with_their_end_tokens():
    tokenizer = tiny_tokenizer()
    turns = [
        *({"role": "user", "content": "good"}, {"role": "assistant", "content": "yes"}),
        *({"role": "user", "content": "bad"}, {"role": "assistant", "content": "no"}),
    ]
    feature = Tokens(tokenizer, POSITIONS).of_dialogue(Dialogue("x", messages=tuple(turns)))
    counted = [label for label in feature["labels"] if label != IGNORED]
    assert tokenizer.decode(counted) == "yes<|end|>no<|end|>"


def test_a_prompt_that_fills_the_context_is_refused_by_its_line():
    with pytest.raises(UserError, match=r"rows line 3: the prompt has \d+ tokens and leaves no room"):
        Tokens(tiny_tokenizer(), 8).of_dialogue(Dialogue("rows line 3", "food: " * 20, "yes"))


# --- packing ---------------------------------------------------------------------------------------------------------


def test_packing_keeps_every_token_and_fills_rows():
    rows = pack(features(20), POSITIONS)
    before, after = ([i for f in found for i in f["input_ids"]] for found in (features(20), rows))
    assert sorted(before) == sorted(after)
    assert all(len(row["input_ids"]) <= POSITIONS for row in rows) and len(rows) < 10


@pytest.mark.parametrize("kind", KINDS)
def test_packed_examples_do_not_see_each_other(kind):
    model, alone = tiny_model(kind), features(6)
    collator = packing_collator(model, 0)
    separate = token_losses(model(**_inputs(Collator(0)(alone))).logits, Collator(0)(alone)["labels"])
    batch = collator(pack(alone, POSITIONS))
    packed = token_losses(model(**_inputs(batch)).logits, batch["labels"])
    assert len(batch["input_ids"]) < 6
    torch.testing.assert_close(packed.sort().values, separate.sort().values, rtol=1e-4, atol=1e-5)


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "labels"}


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_classification_ignores_padding_on_both_sides(kind, tmp_path):
    name = save_base(tmp_path / kind, kind)
    tokenizer = tiny_tokenizer(pad_token="<|end|>")  # padding is the end token, with which the first text ends too
    model = load_model(name, tokenizer, labels=("no", "yes"))
    tokens = Tokens(tokenizer, POSITIONS)
    texts = ["a good film<|end|>", "a bad film food food food: French"]
    rows = [tokens.of_label(Labelled("x", text, None), (), False) for text in texts]
    for side in ("right", "left"):
        together = model(**Collator(0, side)(rows)).logits
        alone = torch.cat([model(**Collator(0, side)([row])).logits for row in rows])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert last_real(torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]])).tolist() == [2, 3, 3]


def test_classifier_has_the_keys_and_logits_of_the_stock_class(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = load_model(save_base(tmp_path / "m", "llama"), tiny_tokenizer(pad_token="!"), labels=("0", "1", "2"))
    model.save_pretrained(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(stock(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)


def test_cloze_equals_scoring_the_words_with_the_language_model(tmp_path):
    model, tokens = tiny_model("gpt2"), Tokens(tiny_tokenizer(), POSITIONS)
    rows = [tokens.of_label(Labelled("x", row["text"], row["label"]), ("no", "yes"), True) for row in films(6)]
    words = [tokens.tokenizer(word)["input_ids"][0] for word in ("no", "yes")]
    trainer = _trainer(model, tmp_path, task="cloze", labels=("no", "yes"), word_ids=tuple(words))
    loss = trainer.compute_loss(model, Collator(0)(rows))
    expected = []
    for row in rows:
        log_p = log_softmax(model(torch.tensor([row["input_ids"]])).logits[0, -1], -1)[words]
        expected.append(-log_softmax(log_p, -1)[row["labels"][1]])
    torch.testing.assert_close(loss, torch.stack(expected).mean())


# --- steps -----------------------------------------------------------------------------------------------------------


def _trainer(model: Any, folder: Any, *, task: str = "sft", method: str = "full", **more: Any) -> ClmTrainer:
    facts = Facts("x", task, method, **{k: more.pop(k) for k in ("labels", "word_ids") if k in more})
    more.setdefault("args", TrainingArguments(str(folder), report_to=[], use_cpu=True, remove_unused_columns=False))
    return ClmTrainer(model, facts, data_collator=Collator(0), **more)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft", "cls"])
def test_accumulation_gives_the_gradient_of_one_big_batch(task, tmp_path):
    """Rows of different lengths, and a last batch of another size."""
    gradients = []
    for batch_size, accumulation in ((7, 1), (2, 4)):
        if task == "sft":
            model, rows = tiny_model("llama"), features(7)
        else:
            model = load_model(save_base(tmp_path / "base", "llama"), tiny_tokenizer(), labels=("no", "yes"))
            torch.manual_seed(0)
            torch.nn.init.normal_(model.score.weight)
            tokens = Tokens(tiny_tokenizer(), POSITIONS)
            rows = [tokens.of_label(Labelled("x", r["text"], r["label"]), ("no", "yes"), False) for r in films(7)]
        args = TrainingArguments(
            str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        before = {name: value.clone() for name, value in model.named_parameters()}
        trainer = _trainer(model, tmp_path, task=task, args=args, train_dataset=rows)
        trainer.train()
        gradients.append({name: before[name] - value.detach() for name, value in model.named_parameters()})
        batch = Collator(0)(rows)
        for name, value in before.items():
            model.get_parameter(name).data.copy_(value)
        model.zero_grad()
        trainer.compute_loss(model, batch).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[-1][name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_loss_is_the_mean_over_counted_tokens(tmp_path):
    model, batch = tiny_model(), Collator(0)(features(4))
    loss = _trainer(model, tmp_path).compute_loss(model, batch)
    logits = model(**_inputs(batch)).logits
    torch.testing.assert_close(loss, cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()))


def test_evaluation_is_the_same_in_batches_of_any_size(tmp_path):
    losses = []
    for size in (1, 3, 8):
        args = TrainingArguments(
            str(tmp_path),
            per_device_eval_batch_size=size,
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        losses.append(_trainer(tiny_model(), tmp_path, args=args, eval_dataset=features(8)).evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


# --- methods ---------------------------------------------------------------------------------------------------------

D, N = WIDTH, LAYERS
GPT2_BLOCK = 12 * D * D + 13 * D  # c_attn, c_proj, c_fc, c_proj with biases, two norms


@pytest.mark.parametrize(
    ("method", "blocks", "lora", "expected"),
    [
        ("lora", None, Lora(r=4), N * 2 * 4 * (D + D)),
        ("lora", None, Lora(r=4, targets=["c_attn"]), N * 4 * (D + 3 * D)),  # 147,456 in GPT-2 small
        ("lora", 1, Lora(r=4), 2 * 4 * (D + D)),
        ("lora", None, Lora(r=2, targets=["all-linear"]), N * 2 * (4 * D + 2 * D + 5 * D + 5 * D)),
        ("lora", None, Lora(r=2, targets=["all-linear", "lm_head"]), N * 2 * 16 * D + 2 * (D + V)),
        ("full", None, Lora(), N * GPT2_BLOCK + 2 * D + (V + POSITIONS) * D),
        ("full", 1, Lora(), GPT2_BLOCK),
        ("head", None, Lora(), V * D),  # tied with the embedding
        ("bias", None, Lora(), N * (3 * D + D + 4 * D + D + 2 * D) + D),
        ("bias", 2, Lora(), 2 * (3 * D + D + 4 * D + D + 2 * D)),
        ("top2", None, Lora(), 2 * GPT2_BLOCK),
    ],
)
def test_method_trains_exactly_what_it_says_on_gpt2(method, blocks, lora, expected):
    model = tiny_model("gpt2")
    apply_method(model, method, lora, blocks)
    assert count_parameters(model)["trained"] == expected
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if blocks is not None or method == "top2":
        last = range(N - (blocks or 2), N)
        assert {name.split(".")[2] for name in names} == {str(i) for i in last}
    if method == "lora":
        assert all(".lora_" in name for name in names)


@pytest.mark.parametrize(
    ("targets", "r", "expected"),
    [(None, 4, 147_456), (["c_attn"], 4, 147_456), (["c_attn", "c_proj", "c_fc"], 16, 2_359_296)],
)
def test_counts_of_gpt2_small_are_those_of_the_published_studies(targets, r, expected):
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    apply_method(model, "lora", Lora(r=r, targets=targets))
    assert count_parameters(model)["trained"] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_lora_adapts_query_and_value_of_every_kind(kind):
    model = tiny_model(kind)
    apply_method(model, "lora", Lora(r=2))
    names = {name.rsplit(".", 2)[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"gpt2": {"c_attn"}, "gpt_neox": {"query_key_value"}}.get(kind, {"q_proj", "v_proj"})


@pytest.mark.parametrize("method", ["lora", "head", "bias", "top2", "full"])
def test_a_classifier_always_trains_its_head(method, tmp_path):
    model = load_model(save_base(tmp_path / "m", "gpt2"), tiny_tokenizer(), labels=("a", "b", "c"), bias=True)
    apply_method(model, method, Lora(r=2))
    counts = count_parameters(model)
    assert counts["trained_in_head"] == 3 * D + 3
    if method == "head":
        assert counts["trained"] == 0


def test_biases_of_a_model_without_any_are_refused():
    with pytest.raises(UserError, match="llama model has no biases"):
        apply_method(tiny_model("llama"), "bias", Lora())


def test_unknown_targets_and_too_many_blocks_are_refused():
    with pytest.raises(UserError, match=r"--lora_targets: target 'q_prj' matches no module; did you mean q_proj"):
        apply_method(tiny_model("llama"), "lora", Lora(targets=["q_prj"]))
    with pytest.raises(UserError, match="--train_blocks 9: the model has 3 blocks"):
        apply_method(tiny_model("llama"), "lora", Lora(), 9)
