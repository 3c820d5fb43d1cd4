"""Turns trained weights in another layout into a PEFT folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from loralib.checkpoint import save_adapter
from loralib.files.folder import new_folder
from loralib.files.pairing import (
    CONV1D,
    adapts_content_alone,
    architecture_of,
    base_model,
    fitted,
    full_name,
    known_layers,
    labels_of,
    tops_of,
)
from loralib.files.reading import CONFIG, PEFT, Adapter


def export(adapter: Adapter, base: str, out: Path, *, fan_in_fan_out: bool = False) -> list[str]:
    """Writes a PEFT folder from a checkpoint in another layout.

    Args:
        base: folder of the base model, against which all is checked, or its name on the hub, which is only noted.
        fan_in_fan_out: square weights of a base of no known kind are stored (in, out).

    Returns:
        What the user should know beside, a sentence each.

    Raises:
        ValueError: unknown alpha or blocks; not of this base; something that PEFT's format has no form for.
    """
    if adapter.kind == PEFT:
        raise ValueError(f"{adapter.path} is a PEFT folder already; its {CONFIG} names the base model")
    config: dict[str, Any] = {}
    notes, names = [], [f"{path}.weight" for path in known_layers(adapter)]
    if Path(base).is_dir():
        model, config = base_model(Path(base))
        adapter, removed = fitted(adapter, model, config, fan_in_fan_out)
        names = [full_name(removed, key) for key in model.where]
    elif base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ValueError(f"--base {base} is no folder")
    else:
        for path, layer in adapter.layers.items():
            in_gpt2 = path.startswith("transformer.h.") and path.endswith(CONV1D)
            layer.fan_in_fan_out = fan_in_fan_out or in_gpt2  # type: ignore[assignment]
        unknown = "" if architecture_of(adapter, config) else "; AutoPeftModel cannot open it, PeftModel can"
        notes = [f"{base} is no folder, so nothing was compared with it{unknown}"]
    if adapts_content_alone(adapter, config or {"share_att_key": True}):
        raise ValueError(
            f"{adapter.path} adapts projections that DeBERTa-v2 shares between content and positions, for the content "
            "alone; PEFT would adapt both. Use merge, which parts them"
        )
    if (n := len(labels_of(adapter))) and config and n != len(labels_of(adapter, config)):
        notes.append(f"the head has {n} labels, {base} has not: open the folder with num_labels={n}")
    skeleton, bias, heads = _skeleton(adapter, names, config, base)
    with new_folder(out) as folder:
        save_adapter(skeleton, folder, bias=bias, modules_to_save=heads)
    return notes


def _skeleton(
    adapter: Adapter, names: list[str], config: Mapping[str, Any], base: str
) -> tuple[nn.Module, str, list[str]]:
    """For ``save_adapter``: a model of empty modules but for what the adapter has; which biases; and which heads."""
    kind: dict[str, Any] = {"__module__": "transformers", "main_input_name": "input_ids", "name_or_path": base}
    kind["config"] = SimpleNamespace(is_encoder_decoder=config.get("is_encoder_decoder", False))
    model = type(architecture_of(adapter, config) or "PreTrainedModel", (nn.Module,), kind)()
    tops, biases, heads = tops_of(adapter), set[str](), set[str]()

    def put(path: str, new: nn.Module | None = None) -> nn.Module:
        parent, _, last = path.rpartition(".")
        module = put(parent) if parent else model
        if new is not None or last not in dict(module.named_children()):
            module.add_module(last, new or nn.Module())
        return module.get_submodule(last)

    try:
        for name in names:
            put(name.rpartition(".")[0])
        for path, layer in adapter.layers.items():
            put(path, layer)
        for name, tensor in adapter.further.items():
            path, _, last = name.rpartition(".")
            top, _, inside = path.partition(".")
            pooled = top in tops and inside.partition(".")[0] == "pooler"  # of the base model, but a part of the head
            (biases if top in tops and not pooled else heads).add(inside if pooled else path)
            if not path or (path in biases and last != "bias"):
                raise ValueError(f"PEFT's format has no place for {name}, which was trained beside LoRA")
            setattr(put(path), last, nn.Parameter(tensor, requires_grad=False))
    except (KeyError, ValueError) as error:  # torch refuses names such as "forward" or ""
        raise ValueError(f"{adapter.path}: {error.args[0]}") from None
    bias = "none" if not biases else "lora_only" if biases <= adapter.layers.keys() else "all"
    return model, bias, sorted({path.partition(".")[0] for path in heads})
