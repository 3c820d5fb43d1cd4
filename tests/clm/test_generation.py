"""``generate.py`` and its parts: batches change nothing, samples follow their distribution, adapters share a batch."""

from __future__ import annotations

import json
import sys

import generate as program
import pytest
import torch
from clm.generation import Decoding, Prompt, generate
from clm.kept_texts import KeptTexts
from clm.opening import Opened
from scipy.stats import chisquare
from torch import nn
from transformers import set_seed

import loralib
from examples.common.errors import UserError
from tests.clm.world import KINDS, POSITIONS, save_base, tiny_model, tiny_tokenizer, write_jsonl

TEXTS = ["food: French", "a", "name: Blue Spice, food: French, a good film", "yes no"]


def tokenizer():
    return tiny_tokenizer(pad_token="<|end|>")


def prompts(adapters=(None,)):
    return [Prompt(str(i), tokenizer()(text)["input_ids"], adapters[i % len(adapters)]) for i, text in enumerate(TEXTS)]


def merged(batches):
    return {index: found for batch in batches for index, found in batch.items()}


def texts(model, rows, decoding, **options):
    found = merged(generate(model, tokenizer(), rows, decoding, **options))
    return [found[index] for index in range(len(rows))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_text_does_not_depend_on_the_batch(kind, beams):
    model, decoding = tiny_model(kind), Decoding(max_new_tokens=5, num_beams=beams)
    alone = texts(model, prompts(), decoding, batch_size=1)
    assert texts(model, prompts(), decoding, batch_size=3) == alone


def test_greedy_takes_the_most_probable_token_each_time():
    model, rows = tiny_model("llama"), prompts()
    for prompt, [text] in zip(rows, texts(model, rows, Decoding(max_new_tokens=4)), strict=True):
        ids = list(prompt.ids)
        for _ in range(4):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 0:
                break
        assert text == tokenizer().decode(ids[len(prompt.ids) :], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({"temperature": 1.0}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"temperature": 0.5}, [0.25, 0.0625, 0.015625, 0.00390625, 0.00390625]),  # squares
        ({"top_k": 2}, [0.5, 0.25, 0, 0, 0]),
        ({"top_p": 0.8}, [0.5, 0.25, 0.125, 0, 0]),  # the token that crosses 0.8 is the last to stay
    ],
)
def test_samples_follow_the_distribution_that_the_flags_leave(flags, kept):
    """One token of a model that always says 1, 2, 3, 4, 5 with these probabilities; the rest have none."""
    model = tiny_model("gpt2")
    wanted = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    model.lm_head = nn.Linear(model.config.n_embd, model.config.vocab_size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.fill_(-1e4)
        model.lm_head.bias[33:38] = wanted.log()
    n = 2000
    set_seed(3)
    rows = [Prompt("x", [40, 41])]
    drawn = texts(model, rows, Decoding(max_new_tokens=1, num_return_sequences=n, **flags))[0]
    names = [tokenizer().decode([i]) for i in range(33, 38)]
    counts = [drawn.count(name) for name in names]
    expected = [n * p / sum(kept) for p in kept if p]
    assert sum(counts[: len(expected)]) == n and not any(counts[len(expected) :])
    assert chisquare(counts[: len(expected)], expected).pvalue > 1e-3


def test_a_seed_gives_the_same_samples():
    model, found = tiny_model(), []
    for seed in (1, 1, 2):
        set_seed(seed)
        found.append(texts(model, prompts(), Decoding(max_new_tokens=6, temperature=1.0)))
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 2])
def test_adapters_that_share_a_batch_write_what_each_writes_alone(beams, tmp_path):
    folders = []
    for seed in (1, 2):
        model = loralib.apply_lora(tiny_model("llama"), ["q_proj", "v_proj"], 2, 8, lora_init="paper_era")
        torch.manual_seed(seed)
        for layer in (m for m in model.modules() if isinstance(m, loralib.LoRALayer)):
            nn.init.normal_(layer.lora_A)
            nn.init.normal_(layer.lora_B)
        folders.append(tmp_path / f"adapter{seed}")
        loralib.save_adapter(model, folders[-1])
    decoding = Decoding(max_new_tokens=5, num_beams=beams)
    names = ("a", "b", None)
    model = tiny_model("llama")
    adapters = loralib.Adapters(model)
    for name, folder in zip(names, folders):
        adapters.add(name, folder)
    mixed = texts(model, prompts(names), decoding, adapters=adapters, batch_size=4)
    for name, folder in [*zip(names, folders), (None, None)]:
        single = tiny_model("llama")
        if folder is not None:
            loralib.load_adapter(single, folder)
        alone = texts(single, prompts(), decoding)
        assert [mixed[i] == alone[i] for i in range(4) if prompts(names)[i].adapter == name].count(False) == 0
    assert len({tuple(texts(model, prompts([n]), decoding, adapters=adapters)[0]) for n in names}) > 1


def test_program_writes_rows_in_their_order_with_every_adapter(tmp_path, monkeypatch, capsys):
    base = save_base(tmp_path / "base", "gpt2")
    for name in ("x", "y"):
        loralib.save_adapter(loralib.apply_lora(tiny_model("gpt2"), "c_attn", 2, 4), tmp_path / name)
    rows = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a good", "id": 1}, {"prompt": "yes", "adapter": "y"}])
    flags = ["--model", base, "--adapter", str(tmp_path / "x"), f"y={tmp_path / 'y'}", "--input", rows]
    flags += ["--output", str(tmp_path / "out.jsonl"), "--max_new_tokens", "3", "--batch_size", "2"]
    monkeypatch.setattr(sys, "argv", ["generate.py", *flags])
    program.main()
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["adapter"]) for row in found] == [("a good", "x"), ("a good", "y"), ("yes", "y")]
    assert found[0]["id"] == 1 and isinstance(found[0]["generated"], str)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--model", base, "--prompt", "a", "--max_new_tokens", "2"])
    program.main()
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize("sampling", [[], ["--temperature", "1.3"]])
def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(sampling, tmp_path, monkeypatch, capsys):
    base = save_base(tmp_path / "base", "gpt2")
    rows = write_jsonl(tmp_path / "in.jsonl", [{"prompt": f"a good {'film ' * (n % 3)}", "id": n} for n in range(7)])
    flags = ["--model", base, "--input", rows, "--max_new_tokens", "4", "--batch_size", "2", *sampling]

    def run(name, *more):
        monkeypatch.setattr(sys, "argv", ["generate.py", *flags, "--output", str(tmp_path / name), *more])
        program.main()
        return (tmp_path / name).read_text()

    whole = run("whole.jsonl")
    add = KeptTexts.add

    def stop_after_two(self, batch):
        add(self, batch)
        if len(self.found) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptTexts, "add", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run("cut.jsonl")
    left = tmp_path / "cut.jsonl.partial"
    assert not (tmp_path / "cut.jsonl").exists() and len(left.read_text().splitlines()) == 3
    left.write_bytes(left.read_bytes()[:-3])  # as a kill in the middle of a line would
    capsys.readouterr()
    assert run("cut.jsonl") == whole
    assert "going on after 2 of 7 prompts" in capsys.readouterr().out and not left.exists()

    with monkeypatch.context() as patch:
        patch.setattr(KeptTexts, "add", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run("other.jsonl", "--seed", "5")
    assert run("other.jsonl") == whole
    assert "of another run; its texts are made again" in capsys.readouterr().err


def test_kept_texts_are_of_one_model_and_whole(tmp_path, capsys):
    """Names on the hub tell models apart that share their tokenizer; damaged texts are made again."""
    output, rows = tmp_path / "out.jsonl", prompts()
    for folders, kept in ((["hub/small"], 0), (["hub/small"], 2), (["hub/large"], 0)):
        with KeptTexts(output, {}, rows, folders) as texts:
            assert len(texts.found) == kept
            with pytest.raises(UserError, match="is in use"), KeptTexts(output, {}, rows, folders):
                pass
            texts.add({0: ["a\u2028line"], 1: ["b\x85"]})  # JSON does not escape such line ends
    with KeptTexts(output, {}, rows, ["hub/large"]) as texts:
        texts.add({2: 5})
    with KeptTexts(output, {}, rows, ["hub/large"]) as texts:
        assert texts.found == {}
    assert "damaged or of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "a", "--temperature", "0"], "--temperature must be above 0, got 0.0; leave"),
        (["--prompt", "a", "--top_p", "1.5"], "--top_p must be above 0 and at most 1"),
        (["--prompt", "a", "--num_return_sequences", "2"], "needs as many beams, or sampling"),
        (["--prompt", "a " * POSITIONS], r"--prompt 1: the prompt has \d+ tokens and leaves no room"),
        (["--prompt", ""], "the prompt has no tokens"),
        ([], "give --prompt or --input"),
        (["--prompt", "a", "--adapter", "nowhere"], "--adapter nowhere: no adapter folder"),
        (["--prompt", "a", "--top", "3"], "--top"),
    ],
)
def test_a_mistake_gets_one_line(flags, message, tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--model", base, "--separator", "", *flags])
    with pytest.raises(UserError, match=message):
        program.main()


def test_a_row_with_an_unknown_adapter_is_refused():
    opened = Opened(tiny_model(), tokenizer(), None, ("a", "b"), None)
    rows = [program.Row("in.jsonl line 1", {"prompt": "x", "adapter": "c"})]
    with pytest.raises(UserError, match=r"in\.jsonl line 1: unknown adapter 'c', expected one of a, b"):
        program.make_prompts(rows, opened, chat=False, separator=None)
