"""Opens what a run left, for generation and scores: a base with adapters, or a folder with a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import loralib
from clm.model import load_model, load_tokenizer
from clm.run_folder import Facts, read_facts
from examples.common.errors import UserError
from examples.common.files import read_json


@dataclass
class Opened:
    """``names``: of the adapters; ``adapters``: only where there are several, one alone being in the model;
    ``folders``: where base and adapters are."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: Facts | None
    names: tuple[str, ...]
    adapters: loralib.Adapters | None
    folders: tuple[str, ...] = ()


def adapter_paths(given: Sequence[str]) -> dict[str, str]:
    """Folders by name: of ``NAME=FOLDER``, or the last part of the folder.

    Raises:
        UserError: a name that comes twice, or no adapter folder.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals else (Path(text).resolve().name, text)
        if name in found:
            raise UserError(f"--adapter: two are called {name!r}; write NAME=FOLDER")
        if not (Path(path) / "adapter_config.json").is_file():
            raise UserError(f"--adapter {path}: no adapter folder (adapter_config.json is missing)")
        found[name] = path
    return found


def open_model(model_name: str | None, adapters: Sequence[str], dtype: torch.dtype = torch.float32) -> Opened:
    """Loads base, tokenizer and adapters.

    Args:
        model_name: base, or folder of a run that trained a whole model; None: the base that the first adapter names.
        adapters: as for ``adapter_paths``.

    Raises:
        UserError: nothing to load, or an adapter of another model or task.
    """
    paths = adapter_paths(adapters)
    first = next(iter(paths.values()), None)
    name = model_name or (_base_of(first) if first else None)
    if name is None:
        raise UserError("give --model, or --adapter with the folder of a run")
    facts = read_facts(first or name)
    if facts is not None and facts.task == "cls":
        raise UserError(f"{first or name} is a classifier; label texts with run_clm.py --do_predict")
    has_tokenizer = first is not None and (Path(first) / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(str(first) if has_tokenizer else name)
    model = load_model(name, tokenizer, dtype=dtype).eval()
    several = None
    try:
        if len(paths) == 1:
            loralib.load_adapter(model, str(first))
        elif paths:
            several = loralib.Adapters(model)
            for key, path in paths.items():
                several.add(key, path)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"--adapter: {error}") from None
    model.requires_grad_(False)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return Opened(model, tokenizer, facts, tuple(paths), several, (name, *paths.values()))


def _base_of(folder: str) -> str:
    facts = read_facts(folder)
    if facts is not None:
        return facts.base
    try:
        name = read_json(Path(folder) / "adapter_config.json")["base_model_name_or_path"]
    except (UserError, OSError, KeyError, TypeError):
        name = None
    if not isinstance(name, str):
        raise UserError(f"{folder} does not name its base model; give it to --model")
    return name
