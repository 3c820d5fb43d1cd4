"""The clocks and counters that the measurements share."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise

import pytest
import torch
from harness import corpora, costs, e2e, timing
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import Ratio, ratio, side_by_side, spread
from torch import nn

from examples.common.errors import UserError


@pytest.mark.slow
def test_the_first_place_of_a_round_goes_round():
    order: list[str] = []
    work = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = side_by_side(work, rounds=4, warm_up=1, calls=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys("abc", 4)


@pytest.mark.slow
def test_calls_are_averaged_and_all_made(monkeypatch):
    clock = iter([0.0, 10.0, 100.0, 120.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    made: list[int] = []
    times = side_by_side({"a": lambda: made.append(1)}, rounds=2, calls=5, warm_up=0)
    assert times == {"a": [2.0, 4.0]} and len(made) == 10


def test_a_ratio_is_taken_within_each_round():
    # the second round ran on a machine half as fast: the ratio does not notice
    assert ratio({"a": [2.0, 4.0, 2.0], "b": [1.0, 2.0, 1.0]}, "a", "b") == Ratio(2.0, 2.0, 2.0, 3)


def test_the_spread_is_the_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Ratio(3.0, 2.0, 4.0, 5)
    assert spread([1.0, 2.0]) == Ratio(1.5, 1.0, 2.0, 2)
    assert spread([7.0]) == Ratio(7.0, 7.0, 7.0, 1)


def test_saved_bytes_count_a_storage_once_however_often_it_is_saved():
    x = torch.randn(64, 32, requires_grad=True)
    once = costs.saved_bytes(lambda: x.sin())
    assert once == x.nbytes
    assert costs.saved_bytes(lambda: (x.sin(), x[:2].cos(), x.t().exp().sum())) == 2 * x.nbytes  # x, and exp's result


def test_saved_bytes_leave_out_what_exists_anyway():
    layer, x = nn.Linear(32, 16), torch.randn(8, 32)
    everything = costs.saved_bytes(lambda: layer(x))
    assert everything == x.nbytes  # the weight is not needed for gradients of the parameters
    assert costs.saved_bytes(lambda: layer(x), [x, *layer.parameters()]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_processor_has_a_rate_of_matrix_products(dtype):
    assert costs.matmul_flops_per_second(dtype, "cpu", size=64, seconds=0.01) > 0


def test_flops_of_a_product_are_two_a_multiply_add():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert costs.counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_a_program_writes_its_rows_with_its_machine(tmp_path, monkeypatch, capsys):
    file = tmp_path / "layers.json"
    monkeypatch.setattr("sys.argv", ["layers.py", "--quick", "--json", str(file), "--threads", "1"])
    monkeypatch.setattr("harness.rows.matmul_flops_per_second", lambda dtype, device: 1.0)
    threads = torch.get_num_threads()
    bench = begin("layers", bench_parser("", rounds=9))
    torch.set_num_threads(threads)
    assert bench.args.rounds == 3
    bench.add(Row("a", "bytes", exact(2)))
    bench.write()
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["bench"] == "layers"
    assert written["rows"] == [{"case": "a", "quantity": "bytes", "median": 2, "low": 2, "high": 2, "rounds": 1}]
    assert set(written) >= {"began", "commit", "load_before", "machine", "threads", "command"}
    assert "bytes" in capsys.readouterr().out


def test_a_program_without_json_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Bench("layers", argparse.Namespace(json=None)).write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--rounds", "-1"], ["--threads", "0"]])
def test_numbers_that_cannot_be_measured_with_are_refused(monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["layers.py", *arguments])
    with pytest.raises(UserError, match="--rounds and --threads must be at least 1"):
        begin("layers", bench_parser("", rounds=9))


@pytest.mark.slow
def test_without_the_data_set_lengths_come_from_the_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(e2e, "SHARED", tmp_path / "nowhere")
    monkeypatch.setattr(e2e, "CACHE", tmp_path / "cache")
    made = e2e.e2e_token_ids()
    assert made.source == "texts of the generator"
    for split in ("train", "valid", "test"):
        rows = [json.loads(line) for line in (made.folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        lengths = [len(row["context"]) + len(row["completion"]) for row in rows]
        assert len(set(lengths)) > 5 and max(lengths) <= 512
    stamp = (made.folder / "test.jsonl").stat().st_mtime_ns
    assert e2e.e2e_token_ids() == made and (made.folder / "test.jsonl").stat().st_mtime_ns == stamp


def test_without_the_data_sets_texts_to_score_are_made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "SHARED", tmp_path)
    corpus = corpora.webnlg(20)
    assert corpus.source == "made-up texts"
    assert len(corpus.hypotheses) == len(corpus.references) == 20
    assert all(texts and all(texts) for texts in corpus.references)
    assert corpora.webnlg(20) == corpora.webnlg(20)
    assert {len(texts) for texts in corpora.webnlg(20).references} == {corpora.WEBNLG_REFERENCES}


def test_items_with_many_texts_are_cut_to_six_references_and_those_with_few_repeat_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "SHARED", tmp_path)
    items = corpora.synthetic_items(30, n_texts=corpora.TEXTS_PER_ITEM, seed=0)
    for item, references in zip(items, corpora.webnlg(30).references):
        n = len(item) - 1
        assert references[n:] == [references[0]] * (6 - n)
        assert all(one != other for one, other in pairwise(references[:n]))
