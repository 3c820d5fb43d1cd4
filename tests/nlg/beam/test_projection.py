"""Packed products against plain ones: large operands, and memory laid out in every way that a caller can have it."""

from __future__ import annotations

import itertools

import pytest
import torch
from generation.projection import Projection, can_pack

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this build of torch has no oneDNN")


def layouts(dense):
    """The tensor itself; every second number of one filled with NaN; of a matrix, its transpose's memory."""
    yield dense
    apart = torch.full([2 * size for size in dense.shape], torch.nan)
    apart[tuple(slice(None, None, 2) for _ in dense.shape)] = dense
    yield apart[tuple(slice(None, None, 2) for _ in dense.shape)]
    yield dense[:1].expand_as(dense)
    if dense.dim() == 2:
        yield dense.t().contiguous().t()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 8, 24), (10, 768, 2304), (160, 3072, 768), (3, 768, 50257)]
)
def test_packed_products_equal_plain_ones_for_every_layout_in_memory(rows, inputs, outputs):
    torch.manual_seed(0)
    x, residual = torch.randn(rows, inputs), torch.randn(rows, outputs)
    weight, bias = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
    weights = [weight, weight.t().contiguous().t()] if outputs > 10_000 else list(layouts(weight))
    for w, b in itertools.product(weights, [None, *layouts(bias)]):
        plain, packed = (Projection(w, b, pack=pack) for pack in (False, True))
        for y in layouts(x):
            torch.testing.assert_close(packed(y), plain(y), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(packed.then_gelu(y), plain.then_gelu(y), rtol=1e-4, atol=1e-4)
        for r in layouts(residual):
            torch.testing.assert_close(packed.added_to(r, x), plain.added_to(r, x), rtol=1e-4, atol=1e-4)
