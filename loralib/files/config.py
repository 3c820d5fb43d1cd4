"""PEFT's ``adapter_config.json``: read so that no content does harm, and written for old and new versions of PEFT."""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from loralib.base import LoRALayer
from loralib.files.peft import LayerRecord, is_number, is_rank
from loralib.utils import BIAS_MODES

# Features of later PEFT versions that change what an adapter computes.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to initialise that also rewrite frozen weights
_LONGEST_PATTERN = 1000
_MOST_STEPS = 200_000  # of all patterns on one name, about; Python's re takes some hundredths of a second for them
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # an escaped character, or a set of characters
_T = TypeVar("_T")
Patterns = Sequence[tuple[re.Pattern[str], _T]]


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says, as far as it decides what an adapter computes."""

    r: int
    lora_alpha: float
    lora_dropout: float
    bias: str
    modules_to_save: Sequence[str]
    rank_pattern: Patterns[int]
    alpha_pattern: Patterns[float]
    use_rslora: bool

    @classmethod
    def parse(cls, config: object) -> AdapterConfig:
        """From the parsed JSON; PEFT's defaults where keys are absent or null.

        Raises:
            ValueError: no LoRA adapter, features that these layers do not have, or a value of another type; one line.
        """
        if not isinstance(config, dict):
            raise ValueError(f"expected a JSON object, got {type(config).__name__}")
        if config.get("peft_type") != "LORA":
            raise ValueError(f"peft_type is {reprlib.repr(config.get('peft_type'))}, expected 'LORA'")
        features = [name for name in _UNSUPPORTED if config.get(name)]
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init.startswith(_CHANGES_BASE):
            features.append(f"init_lora_weights={reprlib.repr(init)}")
        if features:
            raise ValueError(f"uses {', '.join(features)}, which these layers do not have")
        return cls(
            _read(config, "r", 8, is_rank, "a rank from 1"),
            _read(config, "lora_alpha", 8, is_number, "a number"),
            _read(config, "lora_dropout", 0.0, lambda p: is_number(p) and 0 <= p <= 1, "a probability"),
            _read(config, "bias", "none", lambda bias: bias in BIAS_MODES, f"one of {', '.join(BIAS_MODES)}"),
            _read(config, "modules_to_save", [], _is_list_of_names, "a list of names"),
            _patterns(config, "rank_pattern", is_rank, "a rank from 1"),
            _patterns(config, "alpha_pattern", is_number, "a number"),
            _read(config, "use_rslora", False, lambda value: isinstance(value, bool), "true or false"),
        )

    def record_of(self, path: str) -> LayerRecord:
        """Rank and alpha of one module."""
        rank, alpha = looked_up(self.rank_pattern, path, self.r), looked_up(self.alpha_pattern, path, self.lora_alpha)
        return LayerRecord(rank, alpha, self.use_rslora)


def _read(mapping: Mapping[str, Any], key: str, default: _T, fits: Callable[[Any], bool], expected: str) -> _T:
    value = mapping.get(key)
    if value is not None and not fits(value):
        raise ValueError(f"{key}: expected {expected}, got {reprlib.repr(value)}")
    return default if value is None else value


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


# --- patterns --------------------------------------------------------------------------------------------------------


def _patterns(config: Mapping[str, Any], name: str, fits: Callable[[Any], bool], expected: str) -> Patterns[Any]:
    pattern: dict[str, Any] = _read(config, name, {}, lambda value: isinstance(value, dict), "an object")
    for key, value in pattern.items():
        if not fits(value):
            raise ValueError(f"{name}: expected {expected} for {reprlib.repr(key)}, got {reprlib.repr(value)}")
    try:
        return compiled(pattern)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def compiled(pattern: Mapping[str, _T]) -> Patterns[_T]:
    """The pairs of a mapping, with keys compiled as PEFT reads them: expressions for the end of a name, cut at a dot.

    Raises:
        ValueError: a key that is no regular expression, or that could take long to match.
    """
    pairs, steps = [], 0.0
    for key, value in pattern.items():
        try:
            re.compile(key)
            pairs.append((re.compile(rf"(?:.*\.)?(?:{key})"), value))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{reprlib.repr(key)} is no regular expression: {error}") from None
        steps += _steps(key)
        if steps > _MOST_STEPS:
            raise ValueError(
                f"{reprlib.repr(key)} could take long to match: repeated groups, references and look-arounds are not "
                "read, and neither are many repetitions and alternatives"
            )
    return pairs


def looked_up(patterns: Patterns[_T], path: str, default: _T) -> _T:
    """Value of the first key that matches the path."""
    return next((value for key, value in patterns if key.fullmatch(path)), default)


def _steps(key: str) -> float:
    """In how many ways, about, a valid expression can be laid over a name of 64 characters.

    Counts 8 for each repetition of digits, 32 for any other (the n-th of them has 1/n of the places that are left), and
    the alternatives of each group.
    """
    atoms = _ATOM.sub(lambda atom: "0" if atom[0] in (r"\d", "[0-9]") else "x", key).replace("(?:", "(")
    atoms = re.sub(r"(?<=[*+?}])[?+]", "", atoms)  # lazy or possessive
    if len(key) > _LONGEST_PATTERN or re.search(r"\)[*+{]|\(\?", atoms) or re.search(r"\\[1-9]", key):
        return math.inf
    numbers = len(re.findall("0[*+]", atoms))
    repetitions = len(re.findall("[*+?{]", atoms)) - numbers
    steps, groups = 8.0**numbers * 32.0 ** min(repetitions, 9), [1]
    for sign in re.findall("[(|)]", atoms):
        if sign == "(":
            groups.append(1)
        elif sign == "|":
            groups[-1] += 1
        else:
            steps *= groups.pop()
    return 8 + min(steps * groups[0], 1e9)


# --- writing ---------------------------------------------------------------------------------------------------------

# End of a class name: PEFT's name of the task, and PEFT's class that opens a folder of it.
_TASKS = {
    "ForCausalLM": ("CAUSAL_LM", "AutoPeftModelForCausalLM"),
    "LMHeadModel": ("CAUSAL_LM", "AutoPeftModelForCausalLM"),
    "ForConditionalGeneration": ("SEQ_2_SEQ_LM", "AutoPeftModelForSeq2SeqLM"),
    "ForSequenceClassification": ("SEQ_CLS", "AutoPeftModelForSequenceClassification"),
    "ForTokenClassification": ("TOKEN_CLS", "AutoPeftModelForTokenClassification"),
    "ForQuestionAnswering": ("QUESTION_ANS", "AutoPeftModelForQuestionAnswering"),
}
# Ends of the names of modules that PEFT takes from the file for a task, and fails if they are not in it.
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def config_of(
    model: nn.Module,
    layers: Mapping[str, LoRALayer],
    ranks: Mapping[str, int],
    *,
    bias: str,
    modules_to_save: Sequence[str],
) -> dict[str, Any]:
    """The config for the adapted layers of a model, in the keys that every PEFT version knows.

    Args:
        model, layers: the model and its LoRA layers by path.
        ranks: rank in the file of each module that PEFT adapts, see ``files.peft.ranks_in_file``.
        bias, modules_to_save: as in ``save_adapter``.
    """
    records = {path: LayerRecord.of(layer) for path, layer in layers.items()}
    use_rslora = all(record.use_rslora for record in records.values())
    r, rank_pattern = default_and_pattern(ranks)
    alphas = {path: _whole(records[path].alpha(rank, use_rslora)) for path, rank in ranks.items()}
    alpha, alpha_pattern = default_and_pattern(alphas)
    dropouts = [layer.lora_dropout.p for layer in layers.values() if isinstance(layer.lora_dropout, nn.Dropout)]
    name = getattr(model, "name_or_path", None)
    task, _ = task_of(model, modules_to_save)
    model_class = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    return {
        "auto_mapping": None if task else model_class,
        "base_model_name_or_path": name if isinstance(name, str) and name else None,
        "bias": bias,
        "fan_in_fan_out": any(getattr(layer, "fan_in_fan_out", False) for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": max(dropouts, default=0.0),
        "modules_to_save": list(modules_to_save) or None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "revision": None,
        "target_modules": _target_modules(model, list(ranks)),
        "task_type": task,
        **({"use_rslora": True} if use_rslora else {}),  # the oldest versions of PEFT do not know it
    }


def task_of(model: nn.Module, saved: Sequence[str]) -> tuple[str | None, str]:
    """PEFT's name for what a transformers model does and its class; none where the class for the task does not fit."""
    unknown = (None, "AutoPeftModel")
    task, auto = next((names for end, names in _TASKS.items() if type(model).__name__.endswith(end)), unknown)
    if task is None or getattr(model, "main_input_name", None) != "input_ids":  # not transformers, or reads no text
        return unknown
    if task == "SEQ_2_SEQ_LM" and not getattr(model.config, "is_encoder_decoder", False):
        return unknown
    heads = [name for name, _ in model.named_modules() if name.endswith(_HEADS.get(task, ()))]
    inside = tuple(f"{name}." for name in saved)
    return (task, auto) if all(f"{head}.".startswith(inside) for head in heads) else unknown


def default_and_pattern(values: Mapping[str, _T]) -> tuple[_T, dict[str, _T]]:
    """The most frequent value, and the modules with another one, in keys that select just these."""
    default = Counter(values.values()).most_common(1)[0][0]
    longest_first = sorted(values, key=len, reverse=True)
    pattern = {path: values[path] for path in longest_first if values[path] != default}
    escaped = {f"^{re.escape(path)}": value for path, value in pattern.items()}
    if not all(re.fullmatch(r"[\w.-]+", path) for path in pattern):
        return default, escaped
    pairs = compiled(pattern)
    # Keys are regular expressions for the end of a name, so one module's name may also select another module.
    exact = all(looked_up(pairs, path, default) == value for path, value in values.items())
    return default, pattern if exact else escaped


def _target_modules(model: nn.Module, paths: list[str]) -> list[str] | str:
    """Last components of the names if these select just the adapted modules, else whole names, else an expression."""
    inside = tuple(f"{path}." for path in paths)
    names = [name for name, _ in model.named_modules() if not name.startswith(inside)]
    for targets in (sorted({path.rpartition(".")[2] for path in paths}), paths):
        ends = tuple(f".{target}" for target in targets)
        if [name for name in names if name in targets or name.endswith(ends)] == paths:
            return targets
    return "|".join(map(re.escape, paths))


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number
