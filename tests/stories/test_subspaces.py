"""What section 7 of the paper computes, on matrices whose answers are known."""

import sys

import pytest
import torch

from tests.shared_data import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts" / "replication"))
import section7_runs as section7


def orthonormal(rows, n, seed):
    torch.manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, rows, dtype=torch.float64)).Q.T


def test_similarity_of_known_subspaces():
    base = orthonormal(6, 20, 0)
    scales = torch.tensor([6.0, 5, 4, 3, 2, 1], dtype=torch.float64)
    a = orthonormal(6, 6, 1).T @ (scales[:, None] * base)  # its right singular vectors are the rows of base
    same = section7.similarities(a, a)
    assert torch.allclose(same, torch.ones(6, 6, dtype=torch.float64))
    b = scales[:3, None] * base[[1, 4, 5]]  # first direction is the second of a, then the fifth, then the sixth
    found = section7.similarities(a, b)
    by_hand = [[len({*range(i)} & {*[1, 4, 5][:j]}) / min(i, j) for j in (1, 2, 3)] for i in range(1, 7)]
    assert torch.allclose(found, torch.tensor(by_hand, dtype=torch.float64), atol=1e-12)


def test_amplification_is_that_of_a_known_update():
    u, v = orthonormal(4, 12, 2), orthonormal(4, 9, 3)
    weight = u.T @ torch.diag(torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)) @ v
    update = 3 * torch.outer(u[2], v[2])  # in the third direction of the weight, where it has strength 2
    found = section7.amplification(update, weight, 1, torch.Generator().manual_seed(0))
    expected = {"update": 3, "weight": 85**0.5, "in_update": 2, "in_weight": 8, "factor": 1.5}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["in_random"] < 8
