"""GPT-2 language model (Radford et al. 2019) with LoRA; key names are those of the released code."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2.chunked_loss import chunked_loss
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.layers import INIT_STD, Block
from gpt2.losses import DENOMINATOR_EPSILON, MIN_LABEL_SMOOTH, lm_loss
from loralib import LoRALayer


class GPT2Model(nn.Module):
    """Embeddings, blocks and final layer norm: token ids to hidden states."""

    def __init__(self, config: GPT2Config, lora_config: LoRAConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        # As released, one block is built and copied: what is not drawn again starts equal in all blocks, lora_A too
        block = Block(config, lora_config)
        self.h = nn.ModuleList([copy.deepcopy(block) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        # Keep only the input of each block for the backward pass, which then computes the block once more. Gradients
        # are equal: random numbers are drawn again from the state that the first pass began with.
        self.gradient_checkpointing = False

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compiles every block in place, for any batch size and length; state-dict keys stay as they are."""
        for block in self.h:
            block.compile(dynamic=True, backend=backend)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states after the final layer norm: (B, T) token ids -> (B, T, C)."""
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.size(1), device=input_ids.device))  # (B, T, C)
        for block in self.h:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.ln_f(x)


class GPT2LMHead(nn.Module):
    """Hidden states to logits with the token embedding itself, (V, C)."""

    def __init__(self, wte: nn.Embedding) -> None:
        super().__init__()
        self.decoder = nn.Linear(wte.embedding_dim, wte.num_embeddings, bias=False)
        self.decoder.weight = wte.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        return self.decoder(hidden)


class GPT2LMModel(nn.Module):
    """GPT-2 with its tied language-model head.

    A new model draws its weights from torch's default generator in the order of the released code, so a seed gives
    the same ``lora_A`` as there. ``lora_config.init`` other than ``"released"`` draws each block's LoRA on its own.
    """

    def __init__(self, config: GPT2Config, lora_config: LoRAConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.lora_config = lora_config = lora_config or LoRAConfig()
        self.transformer = GPT2Model(config, lora_config)
        self.lm_head = GPT2LMHead(self.transformer.wte)
        self._draw_weights()
        if lora_config.r > 0 and lora_config.init != "released":
            init = "released" if lora_config.init == "independent" else lora_config.init
            for layer in self.lora_layers():
                layer.reset_lora_parameters(init)

    def forward(
        self,
        input_ids: Tensor,
        lm_labels: Tensor | None = None,
        lm_mask: Tensor | None = None,
        label_smooth: float = 0.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits at every position, under the argument names of the released code. Training uses ``loss``.

        Args:
            input_ids: (B, T) token ids.
            lm_labels: (B, T) ids, already shifted.
            lm_mask: (B, T), 1.0 where a label counts; None counts all.

        Returns:
            (logits, None), (B, T, V), where the released model has its cache second; with labels (logits, loss).
        """
        logits = self.lm_head(self.transformer(input_ids))
        return (logits, None) if lm_labels is None else (logits, lm_loss(logits, lm_labels, lm_mask, label_smooth))

    def loss(
        self,
        input_ids: Tensor,
        target: Tensor,
        mask: Tensor,
        label_smooth: float = 0.0,
        denominator: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Loss of ``forward`` with logits only where the mask counts, and few at a time: equal result, less work.

        Args:
            input_ids, target: (B, T) token ids; target[b, t] follows input[b, t].
            mask: (B, T) float, 1.0 where the target counts.
            label_smooth: see ``losses.token_losses``.
            denominator: scalar that replaces ``mask.sum()``: the tokens of a batch that several processes share.
            counted: (n,) positions of the non-zeros in the flattened mask; found here if None, for which a GPU stops
                until everything before is done.

        Returns:
            Scalar, nats per counted token.
        """
        if counted is None:
            counted = mask.flatten().nonzero().squeeze(1)  # (n,)
        hidden = self.transformer(input_ids).flatten(0, 1).index_select(0, counted)  # (n, C)
        mask, target = (t.flatten().index_select(0, counted) for t in (mask, target))
        tokens = mask.sum() if denominator is None else denominator
        smooth = label_smooth if label_smooth > MIN_LABEL_SMOOTH else 0.0
        weight = self.lm_head.decoder.weight
        return chunked_loss(hidden, weight, target, mask / (tokens + DENOMINATOR_EPSILON), smooth)

    def get_output_embeddings(self) -> nn.Linear:
        """The head, by the name under which ``loralib.apply_lora`` asks for it to leave it out."""
        return self.lm_head.decoder

    def lora_layers(self) -> list[LoRALayer]:
        """The layers that have an update, block by block."""
        return [layer for layer in self.modules() if isinstance(layer, LoRALayer) and layer.has_lora]

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Second round of random draws, as released: embeddings, each ``c_attn``, and the tied head once more."""
        wte, wpe = self.transformer.wte, self.transformer.wpe
        wte.weight.normal_(std=INIT_STD)
        wpe.weight.normal_(std=INIT_STD)
        for block in self.transformer.h:
            c_attn = cast(Block, block).attn.c_attn
            # the released layer is a transposed view of (out, in) memory, and draws follow memory
            drawn = torch.empty(c_attn.weight.t().shape, device=c_attn.weight.device).t().normal_(std=INIT_STD)
            c_attn.weight.copy_(drawn)
            c_attn.bias.zero_()
        wte.weight.normal_(std=INIT_STD)
