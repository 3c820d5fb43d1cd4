"""Input that once kept a program busy for minutes or for ever is refused, or takes moments."""

from __future__ import annotations

import json
import os

import format_converting_e2e
import pytest
from gpt2.config import load_model_card
from gpt2.weights import read_checkpoint
from text.prediction_record import read_record

from examples.common.errors import UserError
from examples.common.files import open_binary, sha256_of
from tests.nlg.data.programs import assert_one_error_line, run


def test_a_field_of_blanks_alone_is_refused_in_time_that_grows_with_its_length(tmp_path):
    (tmp_path / "x.csv").write_text(f'mr,ref\n"{" " * 100_000}x",y\n')
    assert_one_error_line(
        run("format_converting_e2e.py", tmp_path / "x.csv", tmp_path / "out"), "line 2: expected slots"
    )


def test_slots_with_blanks_around_them_are_read_as_before(tmp_path):
    (tmp_path / "x.csv").write_text('mr,ref\n"  name[A B] ,  eatType [pub] , area[ c ]  ",y\n')
    format_converting_e2e.main([str(tmp_path / "x.csv"), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out").read_text())["context"] == "name : A B | eatType  : pub | area :  c "


@pytest.mark.parametrize("size", ["n_layer", "n_embd", "n_positions", "vocab_size"])
def test_a_model_card_of_an_absurd_size_is_refused_before_a_model_is_built(tmp_path, size):
    sizes = {"vocab_size": 101, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, size: 4 * 10**7}
    (tmp_path / "card.json").write_text(json.dumps(sizes))
    with pytest.raises(UserError, match=f"{size} must be at most .*, got 40,000,000"):
        load_model_card(str(tmp_path / "card.json"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.run.json").symlink_to("pipe")
    for read in (open_binary, sha256_of, read_checkpoint, read_record):
        with pytest.raises(UserError, match=r"pipe(\.run\.json)? is (a named pipe|a pipe|no regular file)"):
            read(tmp_path / "pipe")
