"""Scores against their textbook formulas; R-Drop and cutoff by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from glue.losses import Consistency, consistency_loss, find_consistency
from glue.metrics import glue_scores
from glue.results import best_evaluation

from examples.common.errors import UserError
from tests.nlu.world import make_tokenizer

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 2, 200)
PREDICTIONS = np.where(DRAW.random(200) < 0.8, LABELS, 1 - LABELS)


def counts():
    tp = float(((PREDICTIONS == 1) & (LABELS == 1)).sum())
    tn = float(((PREDICTIONS == 0) & (LABELS == 0)).sum())
    fp = float(((PREDICTIONS == 1) & (LABELS == 0)).sum())
    fn = float(((PREDICTIONS == 0) & (LABELS == 1)).sum())
    return tp, tn, fp, fn


def test_cola_is_scored_by_matthews_correlation():
    tp, tn, fp, fn = counts()
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert glue_scores("cola", PREDICTIONS, LABELS) == {"matthews_correlation": pytest.approx(expected)}


@pytest.mark.parametrize("task", ["mrpc", "qqp"])
def test_paraphrases_are_scored_by_accuracy_and_f1_of_class_one(task):
    tp, tn, fp, fn = counts()
    scores = glue_scores(task, PREDICTIONS, LABELS)
    assert scores["accuracy"] == pytest.approx((tp + tn) / 200)
    assert scores["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert scores["combined_score"] == pytest.approx((scores["accuracy"] + scores["f1"]) / 2)


@pytest.mark.parametrize("task", ["mnli", "qnli", "rte", "sst2", "wnli", None])
def test_the_others_are_scored_by_accuracy_alone(task):
    assert glue_scores(task, PREDICTIONS, LABELS) == {"accuracy": pytest.approx((PREDICTIONS == LABELS).mean())}


def test_stsb_is_scored_by_pearson_and_spearman():
    x, y = DRAW.normal(size=50), DRAW.normal(size=50)
    scores = glue_scores("stsb", x, y)
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    assert scores["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert scores["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_constant_predictions_have_no_correlation():
    assert math.isnan(glue_scores("stsb", np.ones(5), np.arange(5.0))["pearson"])
    assert glue_scores("cola", np.ones(5, dtype=int), np.array([0, 1, 0, 1, 1]))["matthews_correlation"] == 0.0


def test_numbers_without_a_task_are_scored_by_squared_error():
    assert glue_scores(None, np.array([1.0, 2.0]), np.array([1.0, 4.0])) == {"mse": 2.0}


def test_the_best_evaluation_is_the_first_of_the_highest_score():
    history = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "eval_accuracy": 0.5},
        {"step": 4, "eval_accuracy": 0.7},
        {"step": 6, "eval_accuracy": 0.7},
        {"step": 8, "eval_accuracy": math.nan},
    ]
    assert best_evaluation(history, "rte", False) == {"step": 4, "eval_accuracy": 0.7}
    assert best_evaluation(history, "cola", False) is None
    errors = [{"step": 1, "eval_mse": 2.0}, {"step": 2, "eval_mse": 1.0}]
    assert best_evaluation(errors, None, True) == errors[1]


def test_the_best_epoch_of_mnli_is_that_of_both_halves_together():
    history = [
        {"step": 1, "eval_accuracy": 0.9},
        {"step": 1, "eval_mm_accuracy": 0.1},
        {"step": 1, "eval_overall_accuracy": 0.5},
        {"step": 2, "eval_accuracy": 0.7},
        {"step": 2, "eval_mm_accuracy": 0.8},
        {"step": 2, "eval_overall_accuracy": 0.75},
        {"step": 2, "train_loss": 0.1},
    ]
    assert best_evaluation(history, "mnli", False) == {
        **{"step": 2, "eval_accuracy": 0.7, "eval_mm_accuracy": 0.8},
        "eval_overall_accuracy": 0.75,
    }
    assert best_evaluation(history[:2], "mnli", False) == {**history[0], **history[1]}  # no epoch had both


# --- consistency ---------------------------------------------------------------------------------------------------

FIRST, SECOND = torch.randn(6, 3, generator=torch.manual_seed(0)), torch.randn(6, 3, generator=torch.manual_seed(1))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])


def test_equal_passes_are_only_charged_their_cross_entropies():
    loss = consistency_loss(FIRST, FIRST, CLASSES, weight=5.0)
    torch.testing.assert_close(loss, 2 * F.cross_entropy(FIRST, CLASSES))


def test_the_loss_is_symmetric_and_its_penalty_positive_and_linear_in_the_weight():
    losses = [consistency_loss(FIRST, SECOND, CLASSES, weight=w) for w in (0.0, 1.0, 3.0)]
    torch.testing.assert_close(consistency_loss(SECOND, FIRST, CLASSES, weight=1.0), losses[1])
    assert losses[1] > losses[0]
    torch.testing.assert_close(losses[2] - losses[0], 3 * (losses[1] - losses[0]))


def test_the_divergence_is_averaged_over_examples_and_classes():
    penalty = consistency_loss(FIRST, SECOND, CLASSES, weight=1.0) - consistency_loss(
        FIRST, SECOND, CLASSES, weight=0.0
    )
    mean = (FIRST + SECOND) / 2
    parts = [F.kl_div(F.log_softmax(x, -1), F.softmax(mean, -1), reduction="none").sum() / 18 for x in (FIRST, SECOND)]
    torch.testing.assert_close(penalty, sum(parts) / 2)


def test_rows_without_a_label_do_not_count():
    labels = CLASSES.clone()
    labels[3:] = -1
    torch.testing.assert_close(
        consistency_loss(FIRST, SECOND, labels, weight=1.0),
        consistency_loss(FIRST[:3], SECOND[:3], CLASSES[:3], weight=1.0),
    )
    logits = FIRST.clone().requires_grad_()
    nothing = consistency_loss(logits, logits, torch.full((6,), -1), weight=1.0)
    nothing.backward()
    assert nothing == 0 and not bool(logits.grad.any())


def test_cutoff_replaces_words_alone_and_as_often_as_asked():
    ids = torch.randint(5, 50, (64, 40), generator=torch.manual_seed(0))
    ids[:, 0], ids[:, 20] = 1, 2
    mask = torch.ones_like(ids)
    mask[:, 30:] = 0
    torch.manual_seed(0)
    cut = Consistency(1.0, 0.25, kept=(1, 2), unk=3).second_input(ids, mask)
    changed = cut != ids
    assert not bool(changed[:, 30:].any()) and not bool(changed[:, [0, 20]].any())
    assert bool((cut[changed] == 3).all())
    share = changed.sum().item() / (64 * 28)
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / (64 * 28)))


@pytest.mark.parametrize(
    ("weight", "masking", "regression", "message"),
    [
        (1.0, 0.0, True, "this task is a regression"),
        (-1.0, 0.0, False, "--reg_loss_wgt must be at least 0"),
        (1.0, 1.5, False, "--masking_prob must be a probability"),
        (0.0, 0.1, False, "--masking_prob has an effect only with"),
    ],
)
def test_settings_that_make_no_sense_are_refused(weight, masking, regression, message):
    with pytest.raises(UserError, match=message):
        find_consistency(weight, masking, make_tokenizer(["a"]), regression)


def test_settings_come_from_the_tokenizer():
    tokenizer = make_tokenizer(["a"])
    assert find_consistency(0.0, 0.0, tokenizer, False) is None
    assert find_consistency(2.0, 0.0, tokenizer, False) == Consistency(2.0)
    assert find_consistency(1.0, 0.1, tokenizer, False) == Consistency(1.0, 0.1, (0, 2), 3)
