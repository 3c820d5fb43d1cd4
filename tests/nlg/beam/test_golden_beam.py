"""The search against predictions, scores and beams recorded from the released code at batch size 1."""

from __future__ import annotations

import json
import math

import pytest
import torch
from generation.penalties import penalize

from tests.nlg.beam.helpers import CASES, NLG, RECORDED, beam_search, recorded_model, settings_of

PROMPTS = RECORDED["prompts"]
TRACED = [name for name, case in CASES.items() if "trace_first_prompt" in case]


@pytest.fixture(scope="module")
def models():
    return {lora: recorded_model(lora=lora) for lora in (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
@pytest.mark.parametrize("name", CASES)
def test_every_batch_size_gives_the_released_predictions_and_scores(models, name, batch_size):
    case = CASES[name]
    found = beam_search(models[case["settings"]["lora"]], PROMPTS, settings_of(case), batch_size=batch_size)
    expected = {p["id"]: p["predict"] for p in case["predictions"]}
    T = case["eval_len"]
    assert {row: h.tokens + [0] * (T - len(h.tokens)) for row, h in enumerate(found)} == expected
    if case["settings"]["batch_size"] == 1:  # recorded prompt by prompt
        scores = [batch["0"] for batch in case["best_scores_per_batch"]]
        assert [h.score for h in found] == pytest.approx(scores, abs=1e-4)


def test_the_recorded_traces_are_there():
    assert len(TRACED) == 2


@pytest.mark.parametrize("name", TRACED)
def test_the_beams_of_every_step_are_the_released_ones(models, name):
    case, steps = CASES[name], []

    def trace(step, scores, tokens):
        steps.append((step, scores[0].tolist(), tokens[0].tolist()))

    settings = settings_of(case, early_stop=False)
    beam_search(models[case["settings"]["lora"]], PROMPTS[:1], settings, trace=trace)
    expected = case["trace_first_prompt"]
    assert [step for step, _, _ in steps] == [recorded["step"] for recorded in expected]
    for (step, scores, tokens), recorded in zip(steps, expected):
        for k, score in enumerate(map(float, recorded["scores"][0])):
            assert scores[k] == pytest.approx(score, abs=1e-4), (step, k)
            if score > -math.inf:  # which descendants of ended hypotheses follow, without any chance, is left open
                assert tokens[k] == recorded["history"][k], (step, k)


POST = json.loads((NLG / "beam_postprocess.json").read_text())


@pytest.mark.parametrize("case", POST["cases"], ids=lambda case: json.dumps(case["kwargs"]))
def test_penalties_on_logits_are_the_released_ones(case):
    wanted = dict(case["kwargs"])
    t = POST["cur_len"]
    eos = torch.tensor(wanted.pop("eos_token_id", []), dtype=torch.int64)
    forbidden = eos if t < wanted.pop("min_length", 0) else None
    found = penalize(torch.tensor(POST["scores"]), torch.tensor(POST["history"])[:, :t], forbidden=forbidden, **wanted)
    expected = torch.tensor([[float(x) for x in row] for row in case["out"]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
