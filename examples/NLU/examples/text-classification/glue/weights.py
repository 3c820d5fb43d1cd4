"""Puts files of trained weights into a model: nothing missing, nothing left over, the head only where it fits."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from examples.common.errors import UserError, warn
from examples.common.fsdp import copy_into
from glue.checkpoint import Description, TrainedFile, read_trained
from glue.encoders import ENCODERS, in_head, last_layer, starts_fresh
from glue.trainable import ADAPTER, BIAS, HEAD, LORA, has_tag


def load_trained(
    model: PreTrainedModel, tensors: OrderedDict[str, Tensor], *, tags: tuple[str, ...], source: str
) -> bool:
    """Copies tensors into a model that has the places for them.

    Of a head with another number of labels the last layer is left out, and what ``glue.encoders`` says, and said so.

    Args:
        tags: parameters of the base model with one of these tags must all be in ``tensors``.
        source: file name for messages.

    Returns:
        Whether the whole head came from ``tensors``.

    Raises:
        UserError: a tensor that the model has no place for, of another shape, or one that is missing.
    """
    own = model.state_dict()
    chosen = OrderedDict(tensors)
    last, fresh = f"{last_layer(model)}.weight", f"{starts_fresh(model)}."
    if last in chosen and chosen[last].shape[0] != own[last].shape[0]:
        warn(
            f"{source}: its head has {chosen[last].shape[0]} labels, this task has {own[last].shape[0]}; "
            f"{fresh}* starts fresh"
        )
        chosen = OrderedDict((name, value) for name, value in chosen.items() if not name.startswith(fresh))
    for name, value in chosen.items():
        if name not in own:
            raise UserError(
                f"{source}: {name} has no place in {model.config.name_or_path or 'this model'}; "
                "is this file of another base model or method?"
            )
        if value.shape != own[name].shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(value.shape)}, the model {tuple(own[name].shape)}; "
                "is this file of another base model, rank or adapter size?"
            )
    missing = [name for name in own if not in_head(model, name) and has_tag(name, tags) and name not in chosen]
    if missing:
        raise UserError(f"{source}: {len(missing)} trained weights are missing, first {missing[0]}")
    copy_into(model, chosen)
    return all(name in chosen for name in own if in_head(model, name))


def resolve_lora(file: TrainedFile | None, r: int | None, lora_alpha: float | None) -> tuple[int, float]:
    """Rank and alpha from flags and file; each must be known, and the two must agree.

    Raises:
        UserError: unknown or contradictory.
    """
    if file is not None:
        # not the rows of lora_A: a fused projection has those of query and value there
        ranks = [value.shape[-1] for name, value in file.tensors.items() if name.endswith("lora_B")]
        if not ranks:
            raise UserError(f"--lora_path {file.path}: holds no LoRA weights")
        description = file.description
        found_r = description.r if description else ranks[0]
        found_alpha = description.lora_alpha if description else None
        for flag, given, found in (("--lora_r", r, found_r), ("--lora_alpha", lora_alpha, found_alpha)):
            if given is not None and found is not None and given != found:
                raise UserError(f"{flag} {given:g}: {file.path} was trained with {found:g}")
        r = found_r if r is None else r
        lora_alpha = found_alpha if lora_alpha is None else lora_alpha
        if lora_alpha is None:
            raise UserError(
                f"{file.path} does not say its alpha; give --lora_alpha (released: 16 for RoBERTa, 32 for DeBERTa)"
            )
    if r is None or lora_alpha is None:
        raise UserError("--apply_lora needs --lora_r and --lora_alpha (the RoBERTa scripts: 8 and 16)")
    if r < 1:
        raise UserError(f"--lora_r must be at least 1, got {r}")
    return r, lora_alpha


def resolve_targets(file: TrainedFile | None, targets: Sequence[str] | None, kind: str) -> tuple[str, ...] | None:
    """Names of adapted modules from flag and file, which must agree; None: query and value of this kind of model.

    Raises:
        UserError: contradictory.
    """
    given, found = tuple(targets or ()), file.description.targets if file and file.description else ()
    if file is None or not found:
        return given or None
    if given and set(given) != set(found):
        raise UserError(f"--lora_targets {' '.join(given)}: {file.path} was trained with {' '.join(found)}")
    encoder = ENCODERS.get(kind)
    # a fused projection of this name may have been adapted as one, or its query and value alone
    blocks = any(
        value.shape[0] != file.tensors[name[:-1] + "B"].shape[-1]
        for name, value in file.tensors.items()
        if name.endswith("lora_A") and name[:-1] + "B" in file.tensors
    )
    is_default = encoder is not None and found == encoder.names and blocks == (encoder.enable_lora is not None)
    return None if is_default else found


def check_base(file: TrainedFile, base: str, base_fingerprint: str) -> None:
    """Refuses a file that says it was trained on another base model than this one."""
    known = file.description
    if known and known.base_fingerprint != base_fingerprint:
        raise UserError(f"{file.path} was trained on another base model ({known.base}) than {base}: weights differ")


def check_same_run(file: TrainedFile, expected: Description) -> None:
    """Refuses to resume from a checkpoint whose method, rank, alpha, base or labels are not those of the flags."""
    found = file.description
    if found is None:
        raise UserError(f"{file.path} does not say how it was trained; it is no checkpoint of this program")
    settings = ("method", "r", "lora_alpha", "targets", "adapter_type", "adapter_size")
    for name in (*settings, "task", "labels", "base_fingerprint"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        if ours != theirs:
            raise UserError(
                f"{file.path} was trained with {name} {theirs!r}, this run has {ours!r}; "
                "choose another --output_dir or pass --overwrite_output_dir"
            )


def read_adapter(path: str, task: str | None) -> TrainedFile:
    """Adapter (or biases) and head from a checkpoint of this program, or from a folder in the adapter hub's naming.

    The latter holds ``pytorch_adapter.bin`` and ``pytorch_model_head.bin``.

    Raises:
        UserError: neither kind of file is there.
    """
    folder = Path(path)
    hub_file, head_file = folder / "pytorch_adapter.bin", folder / "pytorch_model_head.bin"
    if not hub_file.is_file():
        return read_trained(folder, (ADAPTER, BIAS, HEAD, LORA))
    tensors = read_trained(hub_file).tensors | read_trained(head_file).tensors
    return TrainedFile(folder, OrderedDict((hub_name(name, task), value) for name, value in tensors.items()), None)


def hub_name(name: str, task: str | None) -> str:
    """Key of the adapter hub to key of the released code, for example
    ``….output.adapters.sst2.adapter_down.0.weight`` to ``….output.adapter.adapter_A.weight``."""
    if task:
        name = name.replace(f"heads.{task}.1.", "classifier.dense.").replace(f"heads.{task}.4.", "classifier.out_proj.")
        name = name.replace(f"{task}.", "")
    name = re.sub(r"adapter_down\.0\.", "adapter_A.", name).replace("adapter_up.", "adapter_B.")
    return name.replace(".adapters.", ".adapter.")
