"""Flags that are read from the source of transformers are those of its own class."""

from __future__ import annotations

from typing import Any

import clm.flags
import glue.flags
import pytest
from clm.arguments import ClmTrainingArguments
from glue.arguments import GlueTrainingArguments

from examples.common.errors import UserError
from examples.common.trainer_flags import TrainerParser

LOG_LEVELS = ("log_level", "log_level_replica")  # whose choices are computed when transformers is imported
OTHERS = ("parallelism_config",)  # of a class of accelerate


def described(parser: TrainerParser) -> dict[str, Any]:
    """What each flag takes."""
    return {
        " ".join(action.option_strings): (
            *(action.dest, action.nargs, action.const, action.required, action.metavar),
            parser.hidden.get(action, action.help),
            list(action.choices) if action.choices and action.dest not in LOG_LEVELS else None,
            action.type if action.type in (int, float, str) and action.dest not in OTHERS else action.type is None,
            action.default if action.dest != "optim" else None,
        )
        for action in parser._actions
    }


@pytest.mark.parametrize(
    ("flags", "training"), [(clm.flags, ClmTrainingArguments), (glue.flags, GlueTrainingArguments)]
)
def test_the_outline_has_the_flags_of_the_class(flags, training):
    outline, whole = described(flags.build_parser()), described(flags.build_parser(training))
    assert len(outline) > 150 and list(outline) == list(whole)
    assert {name: (outline[name], whole[name]) for name in whole if outline[name] != whole[name]} == {}


@pytest.mark.parametrize("flags", [clm.flags, glue.flags])
def test_help_fits_a_terminal_and_is_short_unless_all_is_wanted(flags, capsys):
    texts = []
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            flags.build_parser().parse_args([word])
        texts.append(capsys.readouterr().out)
        assert end.value.code == 0 and max(map(len, texts[-1].splitlines())) <= 100
    named = [{word for word in text.split() if word.startswith("--")} for text in texts]
    assert {"--lora_r", "--output_dir", "--learning_rate", "--help-all,"} <= named[0] < named[1]
    assert "--adam_beta2" in named[1] - named[0] and "(default: 0.999)" in texts[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "1"], "--learning_rat"),
        (["--lora_r", "many"], "invalid int value: 'many'"),
        (["--eval_strategy", "sometimes"], "'sometimes' .choose from 'no', 'steps', 'epoch'"),
        (["--fp16", "perhaps"], "perhaps"),
    ],
)
def test_a_wrong_flag_or_value_is_refused_by_the_outline(words, message):
    with pytest.raises(UserError, match=message):
        clm.flags.build_parser().parse_args(words)
