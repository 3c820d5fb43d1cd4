"""``nn.Embedding`` with a low-rank update of its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.initializers import EMBEDDING_INITIALIZERS, Initializer


class Embedding(LoRALayer, nn.Embedding):
    """``nn.Embedding`` whose frozen table W is used as W + (alpha/r) (B A)^T, with A and B trainable.

    Maths: y = W[ids] + (alpha/r) A^T[ids] B^T (Hu et al. 2021, Section 4.1, Eq. 3, for a table of rows).
    Shapes: W (num_embeddings, embedding_dim); ``lora_A`` (r, num_embeddings); ``lora_B`` (embedding_dim, r).

    A starts at 0 and B at N(0, 1), the other way round than in ``Linear``: so the columns of A of tokens that never
    occur stay exactly 0. This is the released package's intention as well as its code. The column of ``padding_idx``
    gets no gradient. There is no dropout.

    Args:
        num_embeddings, embedding_dim: sizes.
        r: rank; 0 gives a plain embedding, whose weight stays trainable.
        lora_alpha: the update is scaled by lora_alpha / r.
        merge_weights: whether ``eval()`` merges (see ``LoRALayer``).
        lora_init: a name in ``loralib.INITIALIZERS``.
        use_rslora: scale by lora_alpha / sqrt(r) instead (see ``LoRALayer``).
        **kwargs: further arguments of ``nn.Embedding``. A table given as ``_weight`` is used as it is, not drawn.

    Raises:
        ValueError: r > 0 with ``max_norm``, which would rescale frozen rows and rows of A during a lookup, or with
            ``sparse``, whose gradients cannot pass through the transpose of A.
        TypeError, ValueError: see ``LoRALayer``.
    """

    initializers: Mapping[str, Initializer] = EMBEDDING_INITIALIZERS

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        r: int = 0,
        lora_alpha: float | None = 1,
        merge_weights: bool = True,
        *,
        lora_init: str = "released",
        use_rslora: bool = False,
        **kwargs: Any,
    ) -> None:
        nn.Embedding.__init__(self, num_embeddings, embedding_dim, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, 0.0, merge_weights, lora_init=lora_init, use_rslora=use_rslora)
        if self.r > 0:
            self._refuse_unsupported()
            self._add_factors((self.r, num_embeddings), (embedding_dim, self.r))
        if kwargs.get("_weight") is None:
            self.reset_parameters()  # the second draw of the table, as released
        else:
            self.reset_lora_parameters()

    def _refuse_unsupported(self) -> None:
        if self.max_norm is not None:
            raise ValueError(
                f"max_norm={self.max_norm} rescales looked-up rows in place, which would change the frozen weight "
                "and lora_A; use max_norm=None, or r=0"
            )
        if self.sparse:
            raise ValueError(
                "sparse=True has no gradient for lora_A, which is stored transposed; use sparse=False, or r=0"
            )

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        **lora: Any,
    ) -> Embedding:
        """Layer around a given table; ``lora`` are r, lora_alpha, merge_weights and lora_init of the constructor.

        Args:
            embeddings: (num_embeddings, embedding_dim); shared, not copied, as in ``nn.Embedding``.
            freeze: whether the table is frozen; with r > 0 it always is.
            padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as in ``nn.Embedding``.

        Raises:
            ValueError: ``embeddings`` is not two-dimensional.
        """
        if embeddings.dim() != 2:
            raise ValueError(f"embeddings must be (num_embeddings, embedding_dim), got shape {tuple(embeddings.shape)}")
        return cls(
            *embeddings.shape,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            _weight=embeddings,
            _freeze=freeze,
            **lora,
        )

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return (lora_B @ lora_A).T  # (num_embeddings, embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the table plus their update.

        Args:
            input: (...) integer ids.

        Returns:
            (..., embedding_dim), in the dtype of the table.
        """
        weight = self._plain_weight()
        if weight is not None:
            return self._look_up(input, weight)
        return self._look_up(input, self._stored_weight()) + self.update(input)

    def update(self, ids: Tensor) -> Tensor:
        """What LoRA adds to the rows of the table: (...) ids to (..., embedding_dim), in the dtype of the table."""
        weight = self._stored_weight()
        self._check_mergeable(weight)
        z = self._look_up(ids, self.lora_A.T)  # (..., r)
        return (F.linear(z, self.lora_B) * self.scaling).to(weight.dtype)

    def _check_mergeable(self, weight: Tensor) -> None:
        tokens = self._stored("lora_A").shape[1]
        if tokens != weight.shape[0]:
            raise RuntimeError(
                f"the table has {weight.shape[0]} rows, but lora_A was made for {tokens}; "
                "resize the embedding first and put LoRA on afterwards (loralib.remove_lora takes it away)"
            )

    def _look_up(self, ids: Tensor, table: Tensor) -> Tensor:
        return F.embedding(
            ids, table, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )
