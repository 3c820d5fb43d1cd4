"""The page of the measurements: what it says of hand-made rows, and the plots that it draws."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from dataclasses import replace

import pytest
from harness.page import figure, machine_lines, number, targets_table
from harness.peers import RELEASED
from harness.plots import fitted_slope, plot_name
from harness.results import PROGRAMS, Curve, forms, growths, read_records, speeds
from harness.rows import Row, exact
from harness.timing import Ratio

from examples.common.errors import UserError
from tests.bench.records import layers_rows, record, write_parts
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

REPORT = REPOSITORY / "scripts" / "bench" / "report.py"
BENCH = REPOSITORY / "scripts" / "bench" / "bench.sh"


def make(parts, out):
    return subprocess.run([PYTHON, REPORT, parts, "--out", out], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of two programs, with notes."""
    folder = tmp_path_factory.mktemp("page")
    other = [Row("beam 10", "time, generate(num_beams=10) / ours", Ratio(3, 2, 4, 5), target=">= 2.0")]
    parts = write_parts(folder / "parts", layers=layers_rows(), beam=other)
    out = folder / "out"
    out.mkdir()
    (out / "notes.md").write_text("The slope is 2 since ranks multiply.\n", encoding="utf-8")
    (out / "growth_of_yesterday.png").write_bytes(b"")
    result = make(parts, out)
    assert result.returncode == 0, result.stderr
    return out


def test_targets_come_first_and_say_met_or_missed(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    before, targets = text.split("## Targets")
    assert "2 of 3 targets met on A processor, 2 threads" in before
    targets = targets.split("\n## ")[0]
    assert "| sm r 4 | time, ours / frozen layer | ≤ 1.15 | 1.050 (1.010 to 1.100, n=7) | met |" in targets
    assert "| sm 8x512 | time, released / ours | ≥ 2.6 | 2.500 (2.250 to 2.750, n=7) | **missed** |" in targets
    assert targets.count("| met |") == 2


def test_every_row_stands_in_its_program_with_command_and_note(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    layers = text.split("## Layers")[1].split("\n## ")[0]
    assert "python scripts/bench/layers.py --quick" in layers
    assert r"| 0.5 s \| 0.2 s |" in layers  # a bar would start another cell
    assert all(row.quantity in layers for row in layers_rows())


def test_programs_without_results_are_named(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    missing = [name for name in PROGRAMS if name not in ("layers", "beam")]
    assert all(f"`{name}.py` left no results in this run." in text for name in missing)
    assert "No results from `train_step.py`" in text


def test_notes_written_by_hand_are_kept_and_shown(made):
    assert (made / "notes.md").read_text(encoding="utf-8").startswith("The slope is 2")
    assert "## Discussion\n\nThe slope is 2 since ranks multiply." in (made / "README.md").read_text(encoding="utf-8")


def test_each_plot_of_the_page_is_a_picture_and_none_is_left_of_an_earlier_run(made):
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (made / "README.md").read_text(encoding="utf-8"))
    assert shown == ["speed.png", "growth_layers_rank.png"]
    assert sorted(shown) == sorted(path.name for path in made.glob("*.png"))
    for name in shown:
        content = (made / name).read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and width > 600 and height > 300


def test_results_hold_all_rows_and_the_machine(made):
    results = json.loads((made / "results.json").read_text(encoding="utf-8"))
    assert results["machine"]["device"] == "A processor"
    layers = next(program for program in results["programs"] if program["name"] == "layers")
    assert [row["met"] for row in layers["rows"]][:3] == [True, False, None]
    assert len(layers["rows"]) == len(layers_rows())


def test_the_report_can_be_made_from_rows_without_targets_or_comparisons(tmp_path):
    parts = write_parts(tmp_path / "parts", checkpoint=[Row("adapter", "bytes", exact(592240))])
    assert make(parts, tmp_path / "out").returncode == 0
    assert "592,240" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("*.png"))


def test_an_empty_folder_is_a_mistake_in_one_line(tmp_path):
    result = make(tmp_path, tmp_path / "out")
    assert result.returncode == 2
    assert re.fullmatch(r"error: .* holds no results; expected some of layers.json.*\n", result.stderr)


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "beam.json").write_text('{"bench": "beam"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"beam\.json is not a file of results \(KeyError: 'rows'\)"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("ratio", "written"),
    [
        (Ratio(1, 1, 1, 1), "1"),
        (Ratio(4.0281, 4.0281, 4.0281, 1), "4.028"),
        (Ratio(0.00123, 0.00123, 0.00123, 1), "0.00123"),
        (Ratio(1.23456, 1, 2.5, 7), "1.235 (1 to 2.500, n=7)"),
    ],
)
def test_numbers_are_written_with_spread_only_where_there_is_one(ratio, written):
    assert number(ratio) == written


@pytest.mark.parametrize(("value", "written"), [(0.0, "0"), (12.345, "12.3"), (1234.5, "1,234"), (9.9999, "10.000")])
def test_figures_keep_three_decimals_under_ten(value, written):
    assert figure(value) == written


def test_a_table_without_targets_says_so(tmp_path):
    records = read_records(write_parts(tmp_path, layers=[Row("a", "b", exact(1))]))
    assert targets_table(records) == ["None of the rows has a target."]


def test_uncommitted_changes_are_told(tmp_path):
    path = write_parts(tmp_path, layers=layers_rows()) / "layers.json"
    path.write_text(json.dumps(record("layers", layers_rows(), commit="0123456789abcdef-dirty")), encoding="utf-8")
    assert any("`0123456789ab` with changes" in line for line in machine_lines(read_records(tmp_path)))


def test_speeds_are_peer_over_ours_whichever_side_a_row_puts_first(tmp_path):
    found = {speed.peer: speed.ratio for speed in speeds(read_records(write_parts(tmp_path, layers=layers_rows())))}
    assert found == {"released": Ratio(2.5, 2.25, 2.75, 7), "transformers + peft": Ratio(2.0, 1.25, 2.5, 7)}


def test_speeds_take_targets_first_and_then_a_row_of_each_program_in_turn(tmp_path):
    layers = [Row(f"layer {n}", "time, ours / peft", exact(0.5)) for n in range(9)]
    beam = [Row("beam", "time, ours / generate", exact(0.5)), Row("aimed", "time, generate / ours", exact(2), ">= 2")]
    found = speeds(read_records(write_parts(tmp_path, layers=layers, beam=beam)), most=4)
    assert [speed.label for speed in found] == ["aimed", "layer 0", "beam", "layer 1"]


def test_headlines_replace_all_others_and_the_last_of_equal_ones_counts(tmp_path):
    named = [replace(row, headline="step") for row in layers_rows()[1:2]]
    again = replace(named[0], ratio=Ratio(3.0, 2.9, 3.1, 7))
    found = speeds(read_records(write_parts(tmp_path, layers=[*layers_rows(), *named, again])))
    assert [(speed.label, speed.peer, speed.ratio.median) for speed in found] == [("step", "released", 3.0)]


def test_speeds_leave_out_bytes_bounds_and_points_of_curves(tmp_path):
    rows = [
        Row("a", "saved bytes, ours / peft", exact(0.4)),
        Row("b", "time, ours / frozen layer", exact(1.1)),
        Row("c", "time, ours / peft", exact(0.5), axis=("rank", 4)),
    ]
    assert speeds(read_records(write_parts(tmp_path, layers=rows))) == []


def test_curves_are_rows_that_differ_in_the_size_only(tmp_path):
    rows = [Row(f"{name} 4 x {n}", "seconds", exact(n), axis=("batch", n)) for name in "ab" for n in (8, 4)]
    rows.append(Row("alone 2", "seconds", exact(1), axis=("batch", 2)))
    (growth,) = growths(read_records(write_parts(tmp_path, layers=rows)))
    assert plot_name(growth) == "growth_layers_batch.png"
    assert not growth.is_comparison
    assert {curve.label: [size for size, _ in curve.points] for curve in growth.curves} == {
        "a 4 x …": [4, 8],
        "b 4 x …": [4, 8],
    }


def test_the_size_is_left_out_of_a_case_as_a_whole_number_at_one_place():
    row = Row("sm 8x16, r 8, 80 rows, 1.8", "b", exact(1), axis=("r", 8))
    assert forms(row) == ["sm …x16, r 8, 80 rows, 1.8", "sm 8x16, r …, 80 rows, 1.8", row.case]
    assert forms(Row("1,862 items", "b", exact(1), axis=("items", 1862)))[0] == "… items"


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_the_fitted_slope_is_the_power(power):
    curve = Curve("", [(n, exact(3 * n**power)) for n in (2, 8, 32)])
    assert fitted_slope(curve) == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize(("median", "met"), [(1.14, True), (1.15, True), (1.16, False)])
def test_a_row_meets_an_upper_target_up_to_its_number(median, met):
    row = Row("a", "b", exact(median), target="<= 1.15")
    assert row.met is met
    assert replace(row, target=">= 1.15").met is (median >= 1.15)
    assert replace(row, target="").met is None


def test_the_story_installs_the_release_that_the_programs_name():
    assert f'released="{RELEASED}"' in BENCH.read_text(encoding="utf-8")


def test_the_story_runs_the_programs_of_the_page():
    listed = re.search(r"^programs=\((.*)\)$", BENCH.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert listed is not None and tuple(listed.group(1).split()) == PROGRAMS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "layer"), "--only: layer is unknown; choose from layers"),
        (("--device", "gpu"), "--device is cpu or cuda, got gpu"),
        (("--threads", "0"), "--threads is a number from 1 on, got 0"),
        (("--fast",), "unknown option --fast"),
        (("--out",), "--out needs a value"),
    ],
)
def test_a_wrong_option_of_the_story_is_refused(arguments, message):
    result = subprocess.run(["bash", BENCH, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
