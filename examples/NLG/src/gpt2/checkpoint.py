"""Puts weights into a model and out of it: nothing is left random without a word, and a LoRA file knows its base.

Files have the layout of the released code: a dict with ``model_state_dict``, names prefixed by ``module.``. Beside it
stands a record of how it was trained: method, LoRA's settings, step, and the base file. A file of what was trained
alone is read together with that base.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.common.errors import UserError, warn
from examples.common.files import atomic_write, sha256_of
from gpt2.config import LoRAConfig
from gpt2.model import GPT2LMModel
from gpt2.trainable import default_method, trained_names
from gpt2.weights import LORA_RECORD, CheckpointFile, read_checkpoint


@dataclass(frozen=True)
class BaseFile:
    """The file that the frozen weights came from: path as the user gave it, sha256 of its bytes."""

    path: str
    sha256: str


def load_into(
    model: GPT2LMModel,
    init_checkpoint: str | Path | CheckpointFile,
    base_checkpoint: str | Path | None = None,
    require_lora: bool = False,
) -> BaseFile:
    """Fills a model from a checkpoint: all base weights, and LoRA where the file has it.

    Args:
        init_checkpoint: pretrained weights, a complete checkpoint, or one of what was trained alone, such as LoRA.
        base_checkpoint: the base of such a file; found by its record if None.
        require_lora: the file must hold LoRA (decoding), rather than start it fresh (training).

    Returns:
        The base file, to be recorded in checkpoints of this run.

    Raises:
        UserError: a base weight is missing (named), a shape or a setting of LoRA differs, or the base of a file
            cannot be found (the message says what to pass).
    """
    file = init_checkpoint if isinstance(init_checkpoint, CheckpointFile) else read_checkpoint(init_checkpoint)
    _check_lora(file, model.lora_config, require_lora)
    if file.is_complete:
        if base_checkpoint is not None:
            raise UserError(f"{file.path} holds the base weights itself; leave --base_checkpoint {base_checkpoint} out")
        base, base_file = file, BaseFile(str(file.path), sha256_of(file.path))
    else:
        base_file = _find_base(file, base_checkpoint)
        base = read_checkpoint(base_file.path)
    parameters = dict(model.transformer.named_parameters())
    given = base.base | file.base | file.lora
    _check_names(base.path, file, given, parameters)
    with torch.no_grad():
        for name, tensor in given.items():
            if name in parameters:
                parameters[name].copy_(tensor)
    return base_file


def recorded_lora(file: CheckpointFile, fallback: LoRAConfig) -> LoRAConfig:
    """LoRA settings that a checkpoint was trained with, as far as it says; ``fallback`` for the rest."""
    record = file.record or {}
    known: dict[str, Any] = {key: record[key] for key in ("alpha", "dropout", "init") if key in record}
    if file.targets:
        known["targets"] = file.targets
    return replace(fallback, r=file.rank, **known)


def training_record(
    model: GPT2LMModel, base: BaseFile | None, step: int, method: str, *, complete: bool
) -> dict[str, Any]:
    """What a checkpoint says of itself: method, LoRA's settings, step, sizes of the model and file of the base."""
    return {
        **(model.lora_config.as_dict() if model.lora_config.r > 0 else {}),
        "method": method,
        "complete": complete,
        "step": step,
        "model": asdict(model.config),
        "base": None if base is None else asdict(base),
    }


def save_trained(path: str | Path, model: GPT2LMModel, base: BaseFile | None, step: int, method: str = "lora") -> None:
    """Writes the tensors that ``method`` trains and the record, atomically; a plain dict, names as released."""
    state, names = _released_state(model), trained_names(model, method)
    tensors = {f"module.{name}": state[f"module.{name}"] for name in names}
    record = training_record(model, base, step, method, complete=False)
    write_tensors(path, {"model_state_dict": tensors, LORA_RECORD: record})


def save_full(
    path: str | Path, model: GPT2LMModel, base: BaseFile | None, step: int, method: str | None = None
) -> None:
    """Writes every tensor and the record, atomically; ``method`` is LoRA or full by default, as the model has it.

    The causal masks and the tied head that released files list are there too, each stored once.
    """
    method = method or default_method(model.lora_config.r)
    record = training_record(model, base, step, method, complete=True)
    write_tensors(path, {"model_state_dict": _released_state(model), LORA_RECORD: record})


def write_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """``torch.save``, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(path, binary=True) as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:
            # torch's archive cannot be closed after a failed write, and that error hides the first one
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _released_state(model: GPT2LMModel) -> OrderedDict[str, Tensor]:
    """State dict under the released names and in their order; the mask is one tensor that all blocks share."""
    n = model.config.n_positions
    mask = torch.ones(n, n).tril().view(1, 1, n, n)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in model.state_dict().items():
        if name.endswith("attn.c_attn.weight"):
            state["module." + name.replace("c_attn.weight", "bias")] = mask
        state["module." + name] = tensor.detach().cpu()
    head = "module.lm_head.decoder.weight"
    state[head] = state["module.transformer.wte.weight"]
    state.move_to_end(head)
    return state


def _check_lora(file: CheckpointFile, config: LoRAConfig, required: bool) -> None:
    if not file.lora:
        if required:
            raise UserError(f"{file.path} holds no LoRA weights; give the trained checkpoint, or --lora_dim 0")
        return
    if config.r != file.rank:
        raise UserError(f"{file.path} holds LoRA of rank {file.rank}, but --lora_dim is {config.r}")
    trained = recorded_lora(file, config)
    if trained.alpha != config.alpha:
        raise UserError(f"{file.path} was trained with --lora_alpha {trained.alpha:g}, got {config.alpha:g}")
    if trained.targets != config.targets:
        names, given = (",".join(lora.targets) for lora in (trained, config))
        raise UserError(f"{file.path} was trained with --lora_targets {names}, got {given}")


def _check_names(
    base: Path, file: CheckpointFile, given: dict[str, Tensor], parameters: dict[str, torch.nn.Parameter]
) -> None:
    needed = {name for name in parameters if file.lora or ".lora_" not in name}
    if missing := [name for name in parameters if name in needed and name not in given]:
        kind = "LoRA" if ".lora_" in missing[0] else "base"
        raise UserError(
            f"{file.path if kind == 'LoRA' else base}: {len(missing)} of {len(needed)} {kind} weights are missing, "
            f"first {missing[0]!r}; pass the complete pretrained file and the --model_card that it belongs to"
        )
    for name, tensor in given.items():
        if name in parameters and tensor.shape != parameters[name].shape:
            raise UserError(
                f"{base}: {name} has shape {tuple(tensor.shape)}, the model expects "
                f"{tuple(parameters[name].shape)}; check --model_card"
            )
    unknown = sorted(given.keys() - parameters.keys())
    if deeper := [name for name in unknown if name.startswith("h.") and name not in file.lora]:
        raise UserError(f"{base}: the model has no {deeper[0]!r}; check --model_card")
    if lora := [name for name in unknown if name in file.lora]:
        raise UserError(f"{file.path} has LoRA where the model has none, first {lora[0]!r}; check --lora_targets")
    if unknown:
        warn(f"{base}: {len(unknown)} tensors are not part of GPT-2 and were left aside, first {unknown[0]!r}")


def _find_base(file: CheckpointFile, given: str | Path | None) -> BaseFile:
    recorded = (file.record or {}).get("base") or {}
    if given is not None:
        found = BaseFile(str(given), sha256_of(_existing(Path(given))))
        if recorded and found.sha256 != recorded["sha256"]:
            warn(f"{given} is not the file that {file.path} was trained on ({recorded['path']}, other sha256)")
        return found
    if not recorded:
        raise UserError(
            f"{file.path} holds LoRA weights only and does not say on which base; "
            "pass the pretrained file with --base_checkpoint"
        )
    wanted = Path(recorded["path"])
    candidates = [wanted, file.path.parent / wanted.name, Path("pretrained_checkpoints") / wanted.name]
    existing = [path for path in candidates if path.is_file()]
    for path in existing:
        if sha256_of(path) == recorded["sha256"]:
            return BaseFile(str(path), recorded["sha256"])
    problem = f"{existing[0]} has another sha256" if existing else f"{wanted} is not there"
    raise UserError(
        f"{file.path} holds trained weights only, trained on {wanted} (sha256 {recorded['sha256'][:12]}...), but "
        f"{problem}; pass that file with --base_checkpoint"
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"--base_checkpoint {path} does not exist")
    return path
