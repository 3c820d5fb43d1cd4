"""A small model with every kind of layer that LoRA can adapt, tied and fused ones among them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.loralib.toys import randomize


class Conv1D(nn.Module):
    """A linear layer with weight (in, out), with the attributes of transformers' class of this name."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.query_proj, self.myquery = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.c_attn = Conv1D(18, 6)
        self.ln = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(self.ln(x)).chunk(3, dim=-1)
        return x + self.myquery(self.query(q).sin() * k) + self.query_proj(v)


class Net(nn.Module):
    """Ids (B, 4) to logits (B, 4, 11) and a picture of them; the head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 6, padding_idx=0)
        self.h = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv1d(6, 6, 3, padding=1, groups=2)
        self.picture = nn.Conv2d(1, 2, 3, stride=2, padding_mode="circular")
        self.lm_head = nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight
        self.classifier = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        for block in self.h:
            x = block(x)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        logits = self.lm_head(x)
        return F.pad(logits, (0, 2)) + self.picture(logits[:, None]).sum() + self.classifier(x).sum()


EVERY_KIND = ["query", "c_attn", "wte", "conv", "picture"]
IDS = torch.tensor([[1, 2, 3, 0], [4, 4, 10, 2]])


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def filled(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model with LoRA factors that are not zero."""
    torch.manual_seed(seed)
    randomize(model)
    return model
