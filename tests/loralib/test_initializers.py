"""Named initialisations: each has its distribution and no other, and the default keeps the released draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import loralib
from loralib import INITIALIZERS
from tests.loralib.toys import ALL_KINDS, KINDS, toy

R, N_IN, N_OUT = 4, 900, 700


def big(name: str, seed: int = 0) -> loralib.Linear:
    torch.manual_seed(seed)
    return loralib.Linear(N_IN, N_OUT, r=R, lora_init=name)


def kolmogorov_smirnov(sample: Tensor, distribution: torch.distributions.Distribution) -> float:
    """sqrt(n) times the largest gap between empirical and stated distribution function; above 1.95: p < 0.001."""
    values = sample.detach().double().flatten().sort().values
    ranks = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    stated = distribution.cdf(values)
    gap = torch.maximum((ranks[1:] - stated).max(), (stated - ranks[:-1]).max())
    return float(gap) * len(values) ** 0.5


UNIFORM = torch.distributions.Uniform(-(N_IN**-0.5), N_IN**-0.5, validate_args=False)
NORMAL_002 = torch.distributions.Normal(0.0, 0.02)
NORMAL_OVER_R = torch.distributions.Normal(0.0, 1 / R)
# name -> distributions of A and of B; None: zeros
STATED = {
    "released": (UNIFORM, None),
    "paper": (NORMAL_002, None),
    "paper_era": (NORMAL_002, NORMAL_002),
    "gaussian_a_over_r": (NORMAL_OVER_R, None),
    "gaussian_ab_over_r": (NORMAL_OVER_R, NORMAL_OVER_R),
}


def test_every_name_is_listed():
    assert set(INITIALIZERS) == set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_factors_follow_the_stated_distribution_and_not_the_others(name):
    layer = big(name)
    for factor, stated in zip((layer.lora_A, layer.lora_B), STATED[name], strict=True):
        if stated is None:
            assert not factor.any()
            continue
        assert kolmogorov_smirnov(factor, stated) < 1.95
        for other in {UNIFORM, NORMAL_002, NORMAL_OVER_R} - {stated}:
            assert kolmogorov_smirnov(factor, other) > 3


@pytest.mark.parametrize("name", STATED)
def test_the_update_starts_at_zero_exactly_where_B_does(name):
    assert bool(big(name).delta_weight().any()) == (STATED[name][1] is not None)


def test_released_A_is_uniform_with_the_deviation_of_a_torch_weight_and_is_not_gaussian():
    A = big("released").lora_A
    assert A.abs().max() <= N_IN**-0.5
    assert abs(A.std() * (3 * N_IN) ** 0.5 - 1) < 0.05
    gaussian = torch.distributions.Normal(0.0, (3 * N_IN) ** -0.5)
    assert kolmogorov_smirnov(A, gaussian) > 1.95


def test_factors_of_the_paper_era_are_independent():
    layer = loralib.MergedLinear(100, 300, r=4, enable_lora=[True, False, True], lora_init="paper_era")
    query, value = layer.lora_A.chunk(2)
    assert not torch.equal(query, value)
    correlation = torch.corrcoef(torch.stack([query.flatten(), value.flatten()]))[0, 1]
    assert abs(correlation) < 4 / query.numel() ** 0.5


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("name", STATED)
def test_every_layer_takes_every_name(kind, name):
    layer = KINDS[kind][0](*KINDS[kind][1], r=2, lora_init=name)
    swapped = kind == "embedding" and name == "released"
    assert layer.lora_A.any() == (not swapped)
    assert layer.lora_B.any() == (swapped or name in ("paper_era", "gaussian_ab_over_r"))


@pytest.mark.parametrize("name", [name for name in STATED if name != "released"])
def test_the_name_changes_neither_the_base_weight_nor_the_default(name):
    default, named, explicit = loralib.Linear, big(name), big("released")
    torch.manual_seed(0)
    unnamed = default(N_IN, N_OUT, r=R)
    for parameter in ("weight", "bias"):
        assert torch.equal(getattr(named, parameter), getattr(unnamed, parameter))
    assert torch.equal(explicit.lora_A, unnamed.lora_A) and not torch.equal(named.lora_A, unnamed.lora_A)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_reset_lora_parameters_draws_the_factors_only(kind):
    layer = toy(kind)
    weight = layer.weight.clone()
    layer.reset_lora_parameters()
    assert not layer.delta_weight().any() and torch.equal(layer.weight, weight)
    layer.reset_lora_parameters("gaussian_ab_over_r")
    assert layer.delta_weight().any() and torch.equal(layer.weight, weight)
    assert layer.lora_init == "released"


def test_reset_parameters_uses_the_name_given_to_the_constructor():
    layer = loralib.Linear(10, 6, r=2, lora_init="paper_era")
    layer.reset_parameters()
    assert layer.lora_B.any()


def test_unknown_names_are_answered_with_the_known_ones():
    message = (
        "unknown lora_init 'xavier'; choose from released, paper, paper_era, gaussian_a_over_r, gaussian_ab_over_r"
    )
    with pytest.raises(ValueError, match=message):
        loralib.Linear(4, 4, r=1, lora_init="xavier")
    with pytest.raises(ValueError, match=message):
        loralib.Linear(4, 4).reset_lora_parameters("xavier")


def test_the_mapping_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        INITIALIZERS["released"] = INITIALIZERS["paper"]  # type: ignore[index]
