"""Reads any file of trained weights: checkpoints of the examples, released files, PEFT folders, plain models.

Nothing in a file is executed, and tensors are mapped from it rather than copied where its format allows that.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.embedding import Embedding
from loralib.files.digest import is_dense
from loralib.files.folder import CONFIG, OLD_WEIGHTS, WEIGHTS, read_config, read_tensors
from loralib.files.peft import PREFIX, without_inner_copies
from loralib.linear import Linear, MergedLinear

PEFT = "PEFT folder"
_MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_GLUE = tuple(f"pytorch_model_{method}.bin" for method in ("lora", "adapter", "bias"))
_MAX_JSON = 2**26  # bytes
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>(embedding_)?[AB])(\.default)?(\.weight)?")
_EMBEDDING = re.compile(r"(.*\.)?(\w*embeddings?|embed_tokens|embed_in|wte|wpe|shared)")
_WRAPPERS = re.compile(rf"({re.escape(PREFIX)}|module\.|_orig_mod\.)+")
_BARE_GPT2 = re.compile(r"(h\.\d+|wte|wpe|ln_f)\.")
MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_QUERY_KEY_VALUE = ("query", "key", "value")  # the blocks of GPT-2's c_attn
# names of factors in the first versions of the released code
_OLD_ROBERTA = re.compile(r"\.self\.(query|value)_lora_([ab])\.weight")
_OLD_GPT2 = re.compile(r"(.+\.attn)\.q_proj_adapter([12])\.weight")


@dataclass(frozen=True)
class Given:
    """What the user says of an adapter: alpha and, of fused layers, which blocks are adapted and the rows of each."""

    alpha: float | None = None
    enable_lora: tuple[int, ...] | None = None
    block_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """Trained weights that need a base model.

    Attributes:
        layers: LoRA layers with the factors of the file, by path of the adapted module; their weights are on the meta
            device. Where alpha is not known it is r, so that the scale is 1.
        further: trained tensors beside the factors, such as heads and biases, by name.
        base: frozen weights, by name, if the file is a complete checkpoint.
        settings: what the file says of itself: ``r``, ``alpha``, ``base``, ``labels``, ...
        unknown: what the user has to give before the update is known: ``--alpha``, ``--enable_lora``.
    """

    path: Path
    kind: str
    layers: dict[str, LoRALayer]
    further: dict[str, Tensor]
    base: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


class Model:
    """Weights of a plain model, in one file or several, of which one is mapped at a time.

    Attributes:
        where: file of each tensor, by name; ``meta``: the tensor's shape and dtype.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files = path, list(files)
        self.where: dict[str, Path] = {}
        self.meta: dict[str, Tensor] = {}
        self._mapped: tuple[Path, dict[str, Tensor]] | None = None
        for file in self.files:
            for name, tensor in read_file(file)[0].items():
                if name in self.where:
                    raise ValueError(f"{path}: {name} is in {self.where[name].name} and again in {file.name}")
                self.where[name], self.meta[name] = file, torch.empty_like(tensor, device="meta")

    def __getitem__(self, name: str) -> Tensor:
        if self._mapped is None or self._mapped[0] != self.where[name]:
            self._mapped = None  # frees the last file before the next one is mapped
            self._mapped = self.where[name], read_file(self.where[name])[0]
        return self._mapped[1][name]


def read(path: Path, given: Given) -> Adapter | Model:
    """Reads a file or folder of trained weights.

    Raises:
        ValueError: of no known kind, damaged, or in contradiction to ``given``.
        FileNotFoundError: nothing is there.
    """
    if path.name in (WEIGHTS, OLD_WEIGHTS) and (path.parent / CONFIG).is_file():
        path = path.parent
    files = [path]
    if path.is_dir():
        if (path / CONFIG).is_file():
            return _read_peft(path, given)
        files = [path / name for name in _GLUE if (path / name).is_file()][:1] or model_files(path)
    if not files:
        hint = ", ".join(sorted(file.name for file in path.glob("model.*.pt"))[:5])
        hint = f"; give one of its checkpoints: {hint}" if hint else ""
        raise ValueError(f"{path} is no PEFT folder, checkpoint folder or model folder{hint}")
    model = Model(path, files)
    if files[0].name not in _GLUE and not any(_FACTOR.fullmatch(name) for name in canonical(path, model.meta)):
        return model
    tensors = {name: tensor for file in files for name, tensor in read_file(file)[0].items()}
    return _read_released(path, tensors, read_file(files[0])[1], given)


def model_files(folder: Path) -> list[Path]:
    """Weight files of a transformers folder, as ``from_pretrained`` chooses them; empty if there are none.

    Raises:
        ValueError: the index is damaged or names a file that is not there.
    """
    found = next((folder / name for name in _MODEL if (folder / name).is_file()), None)
    if found is None or not found.name.endswith(".index.json"):
        return [] if found is None else [found]
    names = read_json(found).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{found}: expected weight_map, file names by tensor")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{found} names {name!r:.100}, which is not in the folder; copy or download it again")
    return [folder / name for name in files]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file holds something else, or more than 64 MiB.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"larger than {_MAX_JSON:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"got {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object ({error})") from None
    return value


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a ``.safetensors``, ``.bin`` or ``.pt`` file by name, and the records beside them.

    Raises:
        ValueError: truncated, another kind of file, code in it, or a tensor larger than what is stored of it.
        FileNotFoundError: it is absent.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        tensors, records = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
        if not isinstance(tensors, dict) or not tensors:
            raise ValueError(f"expected tensors by name, got {type(tensors).__name__} without any")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not is_dense(tensor):
                raise ValueError(f"expected dense tensors by name, found {type(tensor).__name__} under {name!r:.100}")
    except ImportError:
        raise
    except Exception as error:  # for damaged bytes the unpickler raises nearly every class there is
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ValueError(f"{path} is no whole file of tensors: {reason[:200]}") from None
    return tensors, records


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record = (file.metadata() or {}).get("lora_config", "null")
        return {name: file.get_tensor(name) for name in file.keys()}, {"lora_config": json.loads(record)}  # noqa: SIM118


def _torch_file(path: Path) -> tuple[Any, dict[str, Any]]:
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as stream:
        if stream.read(2) in (b"PK", b"") and not is_zip:
            raise ValueError("empty or cut off; copy or download it again")
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(m.compress_type for m in members) or sum(m.file_size for m in members) > path.stat().st_size:
            raise ValueError("compressed or overlapping content, which torch.save does not write")
    with warnings.catch_warnings(action="ignore"):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    whole = content if isinstance(content, dict) else {}
    wrapper = next((key for key in ("model_state_dict", "state_dict") if isinstance(whole.get(key), dict)), None)
    records = {"description": getattr(content, "description", None), "lora_config": whole.get("lora_config")}
    return whole[wrapper] if wrapper else content, {**json.loads(json.dumps(records)), "wrapper": wrapper}


# --- adapters --------------------------------------------------------------------------------------------------------


def _read_peft(folder: Path, given: Given) -> Adapter:
    config, raw, (tensors, header) = read_config(folder), read_json(folder / CONFIG), read_tensors(folder)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in without_inner_copies(tensors).items()}
    layers: dict[str, LoRALayer] = {}
    for name, (lora_A, lora_B, embedding) in _factors(folder, tensors).items():
        said = config.record_of(name)
        if lora_B.shape[1] != said.r or not math.isclose(header.layers.get(name, said).scale, said.scale, rel_tol=1e-6):
            raise ValueError(f"{folder}: {name} has other factors than {CONFIG} says: the files are not of one adapter")
        options = {"use_rslora": said.use_rslora, "lora_dropout": config.lora_dropout}
        alpha = _agreed(folder, "alpha", given.alpha, said.lora_alpha)
        layers[name] = _layer(name, lora_A, lora_B, alpha, Given(), embedding, options)
    further = {name.replace(".base_layer.", "."): t for name, t in tensors.items() if not _FACTOR.fullmatch(name)}
    names = ("task_type", "bias", "modules_to_save", "use_rslora", "fan_in_fan_out")
    settings = {name: raw[name] for name in names if raw.get(name)}
    settings |= {"dropout": config.lora_dropout, "base": raw.get("base_model_name_or_path")}
    return Adapter(folder, PEFT, layers, further, settings=settings)


def _read_released(path: Path, raw: dict[str, Tensor], records: Mapping[str, Any], given: Given) -> Adapter:
    """Sorts factors, further trained tensors and frozen weights of a file in the released layout."""
    gpt2, glue = (x if isinstance(x := records.get(key), dict) else {} for key in ("lora_config", "description"))
    tensors, record = canonical(path, raw), {**glue, **gpt2}
    alpha = _agreed(path, "alpha", given.alpha, record.get("alpha", record.get("lora_alpha")))
    layers: dict[str, LoRALayer] = {}
    unknown = {"--alpha"} if alpha is None else set()
    for name, (lora_A, lora_B, embedding) in _factors(path, tensors).items():
        if record.get("r", lora_B.shape[1]) != lora_B.shape[1]:
            raise ValueError(f"{path}: {name} has factors of r {lora_B.shape[1]}, but its record says {record['r']}")
        if glue:  # query and value of a fused projection, which stack two ranks in A; or all of it as one
            fused = lora_A.shape[0] != lora_B.shape[1]
        else:
            fused = bool(name.endswith(".c_attn") and (gpt2 or records.get("wrapper")))
        blocks = _agreed(path, "enable_lora", given.enable_lora, _blocks(gpt2) if fused else None)
        if blocks is None and lora_A.shape[0] != lora_B.shape[1]:
            unknown.add("--enable_lora")
        options = {"lora_dropout": record.get("dropout", 0.0), "use_rslora": record.get("use_rslora", False)}
        said, embedding = Given(None, blocks, given.block_sizes), embedding or bool(_EMBEDDING.fullmatch(name))
        layers[name] = _layer(name, lora_A, lora_B, alpha, said, embedding, options)
        if glue.get("num_heads"):
            layers[name] = _head_by_head(path, layers[name], glue["num_heads"])
    rest = {name: t for name, t in tensors.items() if not _FACTOR.fullmatch(name) and not MASK.fullmatch(name)}
    inside = {name.partition(".")[0] for name in layers if all(f"{name}.weight" in rest for name in layers)}
    wte = rest.get("transformer.wte.weight")  # the same tensor as the output layer's, which is written too
    tied = {name for name, t in rest.items() if name.startswith("lm_head.") and wte is not None and torch.equal(t, wte)}
    base = {name: t for name, t in rest.items() if name.partition(".")[0] in inside or (inside and name in tied)}
    further = {name: t for name, t in rest.items() if name not in base}
    kind = f"checkpoint of the {'GPT-2' if gpt2 else 'GLUE'} example" if record else "file with the released names"
    kind += ", complete" if base else ", LoRA and further tensors" if layers and further else ""
    names = ("method", "task", "labels", "num_heads", "step", "dropout")
    settings = {key: record[key] for key in names if record.get(key)}
    trained_on = record.get("base")
    settings["base"] = trained_on.get("path") if isinstance(trained_on, dict) else trained_on
    return Adapter(path, kind, layers, further, base, settings, tuple(sorted(unknown)))


def _blocks(record: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """Which blocks of c_attn a checkpoint of GPT-2 adapts: query and value if it does not say; None: all as one."""
    targets = record.get("targets", ["query", "value"])
    if not isinstance(targets, list) or "c_attn" in targets:
        return None
    if len(targets) == 3 and all(isinstance(on, bool) for on in targets):  # so written until 0.3.0
        return tuple(targets)
    return tuple(name in targets for name in _QUERY_KEY_VALUE)


def canonical(path: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers put before them, with what GPT-2's first files left out, and with today's factors.

    Raises:
        ValueError: two tensors get one name.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in raw.items():
        found = _WRAPPERS.match(key)
        name = _OLD_ROBERTA.sub(lambda m: f".self.{m[1]}_proj.lora_{m[2].upper()}", key[found.end() if found else 0 :])
        name = f"transformer.{name}" if _BARE_GPT2.match(name) else name
        if name in tensors:
            raise ValueError(f"{path} has {name} twice, once as {key}")
        tensors[name] = tensor
    for match in [match for name in tensors if (match := _OLD_GPT2.fullmatch(name))]:
        if (twin := f"{match[1]}.v_proj_adapter{match[2]}.weight") in tensors:
            pair = [tensors.pop(match[0]), tensors.pop(twin)]
            tensors[f"{match[1]}.c_attn.lora_{'AB'[int(match[2]) - 1]}"] = torch.cat(pair)
    return tensors


def _factors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, bool]]:
    """A, B and whether PEFT names them as an embedding's, by path of the module; matrices that can be multiplied."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            found.setdefault(match["path"], {})[match["factor"]] = tensor
    factors = {}
    for name, pair in found.items():
        sides = sorted(pair)
        A, B = [pair[side] for side in sides] if len(pair) == 2 else [torch.empty(0)] * 2
        fits = A.ndim == B.ndim == 2 and 0 not in (*A.shape, *B.shape) and A.shape[0] % B.shape[1] == 0
        if not fits or A.dtype != B.dtype or not A.is_floating_point():
            shapes = ", ".join(f"lora_{side} {tuple(pair[side].shape)} {pair[side].dtype}" for side in sides)
            raise ValueError(f"{path}: {name} has {shapes}, which are not the factors of a linear layer or embedding")
        factors[name] = A, B, "embedding_A" in sides
    return factors


def _layer(
    name: str, A: Tensor, B: Tensor, alpha: float | None, given: Given, embedding: bool, options: dict[str, Any]
) -> LoRALayer:
    """A layer with these factors; of a fused one whose blocks are not known, all are taken to be adapted."""
    (rows, r), (g, n_in) = B.shape, (A.shape[0] // B.shape[1], A.shape[1])
    options = {**options, "r": r, "lora_alpha": r if alpha is None else alpha, "device": "meta"}
    blocks = given.enable_lora or (True,) * g
    layer: LoRALayer
    try:
        if g == 1 and embedding:
            del options["lora_dropout"]
            layer = Embedding(n_in, rows, **options)
        elif g == 1 and (given.enable_lora is None or sum(blocks) != 1):
            layer = Linear(n_in, rows, bias=False, **options)
        else:
            block_sizes = given.block_sizes or (rows // g,) * len(blocks)
            options |= {"enable_lora": blocks, "block_sizes": block_sizes, "bias": False}
            layer = MergedLinear(n_in, sum(block_sizes), **options)
        if not layer.has_lora or (layer.lora_A.shape, layer.lora_B.shape) != (A.shape, B.shape):
            raise ValueError(f"lora_A {tuple(A.shape)}, lora_B {tuple(B.shape)} do not fit the given {layer}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    layer.lora_A, layer.lora_B = (nn.Parameter(factor, requires_grad=False) for factor in (A, B))
    return layer


def _head_by_head(path: Path, layer: LoRALayer, num_heads: Any) -> LoRALayer:
    """One update of the whole projection, where the weight has query, key and value of one head after the other.

    In the file B has those of all heads together, as of separate projections. Here it is (out, g*r), zero where the g
    enabled blocks have no rows; the scale stays.
    """
    if not isinstance(layer, MergedLinear):
        return layer
    if type(num_heads) is not int or num_heads < 1 or any(size % num_heads for size in layer.block_sizes):
        raise ValueError(f"{path}: its record says num_heads {num_heads!r:.50}, which does not divide {layer}")
    g, n = sum(layer.enable_lora), len(layer.enable_lora)
    rows = layer.zero_pad(torch.block_diag(*layer.lora_B.chunk(g)))  # (n*H*d, g*r)
    lora_B = rows.unflatten(0, (n, num_heads, -1)).transpose(0, 1).flatten(0, 2)
    r, alpha = g * layer.r, g * layer.lora_alpha
    whole = Linear(layer.in_features, layer.out_features, r, alpha, bias=False, device="meta")
    whole.lora_A, whole.lora_B = layer.lora_A, nn.Parameter(lora_B, requires_grad=False)
    return whole


def _agreed(path: Path, name: str, given: Any, recorded: Any) -> Any:
    if None not in (given, recorded) and given != recorded:
        raise ValueError(f"{path} records {name} {recorded}, but --{name} is {given}")
    return recorded if given is None else given
