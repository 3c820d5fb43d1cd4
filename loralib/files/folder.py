"""Folders that are written completely or not at all; an adapter's files, read with errors that name file and key."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralib.files.config import AdapterConfig, task_of
from loralib.files.digest import is_dense
from loralib.files.peft import LayerRecord

WEIGHTS, OLD_WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
CARD = "README.md"
CARD_MARK = "<!-- Written by loralib.save_adapter, which replaces this file as long as this line stands in it. -->"
_HEADER_KEY = "loralib"
_LARGEST_CONFIG = 2**24  # bytes; a config with a rank for each of 10,000 modules has about 2**20


@dataclass(frozen=True)
class Header:
    """What this package adds to the header of the tensor file, where PEFT does not look; empty in files of others.

    Folders from before version 0.3 have the keys ``enable_lora`` and ``base`` there. These are not read: such folders
    load as PEFT's do, with one LoRA on a fused projection, and their base model is not checked.

    Attributes:
        layers: path to rank, alpha and blocks of each LoRA layer as it was.
        base: name of each frozen weight to its digests, see ``base_digests``.
    """

    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    base: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Header:
        """From the JSON of the file.

        Raises:
            ValueError: another form.
        """
        content = json.loads(text)
        layers, base = (content.get(name) if isinstance(content, dict) else None for name in ("layers", "base"))
        if not isinstance(layers, dict) or not isinstance(base, dict):
            raise ValueError("expected layers and base")
        for name, digests in base.items():
            if not isinstance(digests, dict) or not all(map(_is_name, (name, *digests.values()))):
                raise ValueError(f"base: expected digests of {name!r:.100}")
        return cls({path: LayerRecord.parse(record) for path, record in layers.items()}, base)


def read_config(folder: Path) -> AdapterConfig:
    """The config of an adapter folder.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it is no JSON object, or describes no adapter for these layers; one line with file and key.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; an adapter folder has {CONFIG} beside {WEIGHTS}")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"is larger than {_LARGEST_CONFIG:,} bytes, which no adapter config is")
        return AdapterConfig.parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {_one_line(error)}") from None


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], Header]:
    """Tensors by key, dense, on the CPU, and the header; an empty one for files of another program.

    Raises:
        FileNotFoundError: neither kind of file is there.
        ValueError: a file of another format; one line with file and key.
        ImportError: the package safetensors is missing.
    """
    if (path := folder / WEIGHTS).is_file():
        safetensors = _safetensors()
        data = path.read_bytes()
        try:
            tensors = safetensors.torch.load(data)
            metadata = json.loads(data[8 : 8 + _header_size(data)]).get("__metadata__") or {}
        except Exception as error:  # many kinds of them, for many kinds of damage
            raise ValueError(f"{path} is no safetensors file: {_one_line(error)}") from None
        try:
            header = Header.parse(metadata[_HEADER_KEY]) if _HEADER_KEY in metadata else Header()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {_HEADER_KEY} in the header: {_one_line(error)}") from None
    elif (path := folder / OLD_WEIGHTS).is_file():
        header = Header()
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} is no file of tensors: {_one_line(error)}") from None
    else:
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {OLD_WEIGHTS}")
    if not isinstance(tensors, dict):
        raise ValueError(f"{path}: expected a dict of tensors, got {type(tensors).__name__}")
    for key, value in tensors.items():
        if not _is_name(key):
            raise ValueError(f"{path}: {key!r:.100} is no name of a tensor")
        if not is_dense(value):
            raise ValueError(f"{path}: {key} is no dense tensor: {type(value).__name__}")
    return dict(tensors), header


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], header: Header, card: str
) -> None:
    """Writes the files of an adapter folder, the same bytes for the same content.

    A kill between two renames leaves files of two adapters, which ``load_adapter`` notices by the header. Unfinished
    files of killed processes are removed. A README.md without ``CARD_MARK`` is somebody's own and stays.

    Raises:
        ImportError: the package safetensors is missing.
    """
    metadata = {"format": "pt", _HEADER_KEY: json.dumps(asdict(header), sort_keys=True)}
    data = _safetensors().torch.save(dict(tensors), metadata=metadata)
    contents = {
        WEIGHTS: _with_sorted_header(data),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
    }
    own = folder / CARD
    if not own.exists() or CARD_MARK in own.read_text(encoding="utf-8", errors="replace"):
        contents[CARD] = card.encode()
    _write_all(folder, contents)


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes every file beside its place and then renames all, so that an error leaves what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in contents:
        for path in folder.glob(f".{name}.*.partial"):
            if not is_running(path.name.split(".")[-2]):
                path.unlink(missing_ok=True)
    partial = {name: folder / f".{name}.{os.getpid()}.partial" for name in contents}
    try:
        for name, content in contents.items():
            with partial[name].open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for name in contents:
            os.replace(partial[name], folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends without an error; before that it is a hidden ``.partial`` one.

    Those of killed processes are removed.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; choose another --out")
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{glob.escape(path.name)}.*.*.partial"):
        if not is_running(left.name.split(".")[-3]):
            shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".partial", dir=parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_running(pid: str) -> bool:
    """Whether a process of this machine has the number; where that cannot be asked, True."""
    if os.name != "posix" or not pid.isdecimal():  # elsewhere os.kill(pid, 0) does more than ask
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _header_size(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header in the order of the keys; safetensors itself shuffles the metadata."""
    size = _header_size(data)
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 1000


def _one_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("adapter files need the package safetensors: pip install safetensors") from error
    return safetensors


# --- card ------------------------------------------------------------------------------------------------------------


def card_of(model: nn.Module, config: Mapping[str, Any], *, factors: int, further: int) -> str:
    """Text of the card, with the front matter that the Hugging Face hub reads.

    Args:
        model: that with the adapter.
        config: what ``config_of`` gives for it.
        factors, further: numbers of parameters in the factors, and in heads and biases saved with them.
    """
    name, kind = config["base_model_name_or_path"], type(model).__name__
    targets, saved = config["target_modules"], config["modules_to_save"] or []
    tags = ["lora"]
    base, loaded = "base = ...", "PeftModel.from_pretrained(base, "
    if name is not None:
        tags.append(f"base_model:adapter:{name}")
    if name is not None and type(model).__module__.startswith("transformers."):
        tags.append("transformers")
        base = f"from transformers import {kind}\n\nbase = {kind}.from_pretrained({json.dumps(name)})"
        loaded = f"{task_of(model, saved)[1]}.from_pretrained("
    front = [f"base_model: {json.dumps(name, ensure_ascii=False)}"] if name is not None else []
    front += ["library_name: peft", "tags:", *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in tags)]
    lines = "\n".join(front)
    return f"""---
{lines}
---
{CARD_MARK}

# LoRA adapter

Low-rank updates (Hu et al. 2021, arXiv:2106.09685) of frozen weights, which work on top of their base model alone.

| | |
|---|---|
| base model | {kind}{f", `{name}`" if name is not None else ""} |
| adapted modules | {_listed([targets] if isinstance(targets, str) else targets)} |
| rank | {_values(config["r"], config["rank_pattern"])} |
| alpha | {_values(config["lora_alpha"], config["alpha_pattern"])} |
| scale | {"alpha / sqrt(rank)" if "use_rslora" in config else "alpha / rank"} |
| parameters | {factors:,} |
| saved with it | {_listed(saved) or "nothing"}; biases: {config["bias"]}; {further:,} parameters |

A fused projection of which g blocks have rank r counts as one of rank g·r.

```python
import loralib
{base}
model = loralib.load_adapter(base, "path/to/this/folder")
```

With PEFT:

```python
import peft
{base}
model = peft.{loaded}"path/to/this/folder")
```
"""


def _listed(names: Sequence[str], limit: int = 20) -> str:
    more = [f"{len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*(f"`{name}`" for name in names[:limit]), *more])


def _values(default: float, pattern: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted({default, *pattern.values()}))
