"""``sweep.py``: a grid becomes runs, a table with seeds put together, and a plot; a second start keeps them."""

from __future__ import annotations

import json
import math
import sys

import pytest
import sweep
from clm.grid import flags_of, name_of, plot, read_grid, read_scores, table, write_table

from examples.common.errors import UserError
from tests.clm.world import pairs, save_base, write_jsonl
from tests.warm_python import PYTHON


def test_a_grid_is_lines_of_a_tsv_or_combinations_of_a_yaml(tmp_path):
    (tmp_path / "g.tsv").write_text("lora_r\tlora_targets\n2\tq_proj v_proj\n4\t\n")
    first, second = read_grid(tmp_path / "g.tsv")
    assert flags_of(first) == ["--lora_r", "2", "--lora_targets", "q_proj", "v_proj"] and flags_of(second)[1:] == ["4"]
    assert name_of(first) == "lora_r=2,lora_targets=q_proj_v_proj"
    (tmp_path / "g.yaml").write_text("lora_r: [2, 4]\nlearning_rate: [0.01, 1.0e-4]\npacking: true\n")
    found = read_grid(tmp_path / "g.yaml")
    assert len(found) == 4 and found[1] == {"lora_r": "2", "learning_rate": "0.0001", "packing": "true"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.tsv", "output_dir\nx\n", "'output_dir' cannot be a column"),
        ("g.tsv", "seed\n1\n1\n", "two runs are called seed=1"),
        ("g.tsv", "", "is empty"),
        ("g.yaml", "[1, 2]", "expected flags with lists of values"),
        ("g.yaml", "a: [", "not YAML"),
        ("g.yaml", f"a: {'1' * 5001}", "not YAML .*5001 digits"),
        ("g.yaml", f"a: 0x{'f' * 5001}", "not YAML .*digits"),
        ("g.yaml", "a: 2026-99-99", "not YAML .*month"),
        ("g.yaml", f"a: {'[' * 9999}", "not YAML .*recursion"),
        ("g.yaml", "a: [[1, 2], 3]", "a has a list inside its list"),
        ("g.yaml", "seed: []", "an empty list of values; there is no run"),
        ("g.yaml", 'a: "\\ud800"', "half of a surrogate pair"),
        ("g.txt", "seed\n1\n", "expected a grid that ends in"),
    ],
)
def test_a_wrong_grid_gets_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_grid(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1", '{"a": 1}', "[1, 2]", "\\xff", "[" * 99_999])
def test_damaged_flags_of_a_sweep_are_one_line_and_stay(content, tmp_path):
    import sweep

    path = tmp_path / "sweep.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json"):
        sweep.check_same_flags(path, ["--do_train"])
    assert path.read_text() == content


def test_damaged_scores_count_as_none_and_others_than_numbers_are_refused(tmp_path):
    for content in ("[" * 99_999, '{"scores": "eval_loss"}', '{"scores": [1]}', "3"):
        (tmp_path / "metrics.json").write_text(content)
        assert read_scores(tmp_path) is None
    with pytest.raises(UserError, match=r"--figure eval_loss: a run of lora_r=4 has \[1\]; a number was expected"):
        table([{"lora_r": "4"}], [{"eval_loss": [1]}], "eval_loss")


@pytest.mark.slow
def test_seeds_of_a_setting_share_a_row_with_their_spread(tmp_path):
    settings = [{"lora_r": r, "seed": seed} for r in ("2", "4", "16") for seed in ("0", "1")]
    scores = [{"eval_loss": 1.0}, {"eval_loss": 2.0}, {"eval_loss": 3.0}, None, {"eval_loss": None}, None]
    rows = table(settings, scores, "eval_loss")
    assert rows[0] == {"lora_r": "2", "n": 2, "eval_loss": 1.5, "sd": pytest.approx(0.5**0.5)}
    assert rows[1]["n"] == 1 and rows[1]["eval_loss"] == 3.0 and math.isnan(rows[1]["sd"]) and rows[2]["n"] == 0
    write_table(tmp_path / "t.tsv", rows)
    assert (tmp_path / "t.tsv").read_text().splitlines()[2] == "4\t1\t3.0\t"
    plot(tmp_path / "t.png", rows, "eval_loss")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="--figure bleu: the runs have eval_loss"):
        table(settings, scores, "bleu")


@pytest.mark.slow
def test_a_sweep_trains_each_setting_once_and_names_what_failed(tmp_path, monkeypatch, capsys):
    base, train = save_base(tmp_path / "base", "llama"), write_jsonl(tmp_path / "t.jsonl", pairs(8))
    (tmp_path / "g.tsv").write_text("lora_r\tlora_targets\n1\tq_proj\n2\tnowhere\n")
    words = [str(tmp_path / "g.tsv"), "--runs", str(tmp_path / "runs"), "--jobs", "2", "--do_train", "--do_eval"]
    words += ["--model_name_or_path", base, "--train_file", train, "--validation_file", train, "--max_steps", "1"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    monkeypatch.setattr(sys, "executable", PYTHON)
    for line in ("lora_r=1,lora_targets=q_proj: started", "lora_r=1,lora_targets=q_proj: complete"):
        with pytest.raises(UserError, match="1 of 2 runs failed, first lora_r=2,lora_targets=nowhere"):
            sweep.main()
        out = capsys.readouterr()
        assert line in out.out and "target 'nowhere' matches no module" in out.err
    assert json.loads((tmp_path / "runs" / "lora_r=1,lora_targets=q_proj" / "metrics.json").read_text())["scores"]
    assert (tmp_path / "runs" / "table.png").is_file()
    with pytest.raises(UserError, match="--lora_rank"):
        sweep.build_parser().parse_args([*words, "--lora_rank", "3"])
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words, "--packing"])
    with pytest.raises(UserError, match="give the same flags, or another --runs"):
        sweep.main()
