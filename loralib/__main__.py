"""Trained weights on the command line: what they are, their way to PEFT and to plain models, how two of them differ."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from loralib.base import LoRALayer
from loralib.files.export import export
from loralib.files.merge import merge, replace_weights
from loralib.files.pairing import known_layers
from loralib.files.reading import Adapter, Given, Model, read
from loralib.linear import MergedLinear

_PIECE = 2**20  # numbers that diff compares at a time


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {_line(message)}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The four commands."""
    parser = Parser(prog="python -m loralib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = Parser(add_help=False)
    group = shared.add_argument_group("what a file may not say of itself")
    group.add_argument("--alpha", type=float, help="the update is scaled by alpha / r")
    group.add_argument(
        "--enable_lora", type=integers, metavar="1,0,1", help="which blocks of a fused layer are adapted"
    )
    group.add_argument(
        "--block_sizes", type=integers, metavar="N,N,N", help="rows of each of these blocks, if not equal"
    )

    def command(name: str, run: Callable[[argparse.Namespace, Given], int], text: str) -> Callable[..., Any]:
        added = commands.add_parser(name, help=text, description=text, parents=[shared])
        added.set_defaults(run=run)
        return added.add_argument

    add = command("inspect", _inspect, "print what a file or folder of trained weights is")
    add("source", type=Path, metavar="FILE|FOLDER")
    add("--json", action="store_true", help="print JSON")
    add = command("export", _write, "write a PEFT folder from a checkpoint of the examples or a released file")
    add("source", type=Path, metavar="IN")
    add("--base", type=str, required=True, help="folder of the base model, or its name on the hub")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")
    add("--fan_in_fan_out", action="store_true", help="square weights are stored (in, out)")
    add = command("merge", _write, "write a plain model with the update in its weights")
    add("base", type=Path, metavar="BASE", help="folder of the base model")
    add("source", type=Path, metavar="ADAPTER", help="a PEFT folder, anything that export reads, or all weights")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")
    add = command(
        "diff", _diff, "compare two adapters or two models; exits with 0 if equal, 1 if not, 2 after an error"
    )
    add("source", type=Path, metavar="A")
    add("other", type=Path, metavar="B")
    add("--tolerance", type=float, default=0.0, help="largest relative difference of equal tensors (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if lost := next((word for word in words if word.startswith("--") and word.endswith("=--")), None):
            raise ValueError(f"{lost}: -- cannot be the value of a flag")  # argparse of Python 3.11 drops it
        args = build_parser().parse_args(words)
        with torch.no_grad():
            code: int = args.run(args, Given(args.alpha, args.enable_lora, args.block_sizes))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `... | head` has closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        name = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print("error:", _line(name + reason), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2


def integers(text: str) -> tuple[int, ...]:
    """``1,0,1``."""
    return tuple(map(int, text.split(",")))


def _line(text: object, length: int = 600) -> str:
    """Text in one printable line, its middle left out if it is long."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= length else f"{line[: length // 3]}...{line[3 + length // 3 - length :]}"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints columns in at most 100 characters, shortening the first."""
    cells = [[_line(cell, 100) for cell in row] for row in (head, *rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells)]
    for first, *others in cells:
        first = _line(first, min(widths[0], 100 - sum(widths[1:]) - 2 * len(others)))
        print("  ".join(f"{cell:<{width}}" for cell, width in zip((first, *others), widths)).rstrip())


# --- the commands ----------------------------------------------------------------------------------------------------


def _inspect(args: argparse.Namespace, given: Given) -> int:
    found = _described(read(args.source, given))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    updates, further = found.pop("updates"), found.pop("further")
    for key, value in ((key, value) for key, value in found.items() if value not in (None, [])):
        text = f"{value:,}" if key in ("parameters", "frozen", "bytes") else value
        print(f"{key:<12}{_line(', '.join(map(str, value)) if isinstance(value, list) else text, 88)}")
    _print_table(("trained beside", "shape"), list(further.items()))
    norm = "|scaling B A|" if found.get("alpha") != "not recorded" else "|B A|"
    columns = ("module", "r", "lora_A", "lora_B")
    _print_table((*columns, norm), [(*(u[name] for name in columns), f"{u['norm']:.4g}") for u in updates])
    return 0


def _described(weights: Adapter | Model) -> dict[str, Any]:
    """What ``inspect --json`` prints."""
    found: dict[str, Any] = {"path": str(weights.path), "kind": "plain model"}
    updates: list[dict[str, Any]] = []
    further: Mapping[str, Tensor] = {}
    if isinstance(weights, Model):
        tensors = list(weights.meta.values())
    else:
        further, layers, unknown = weights.further, weights.layers, "--alpha" in weights.unknown
        found |= {"kind": weights.kind, "r": sorted({layer.r for layer in layers.values()})}
        alphas = sorted({layer.lora_alpha for layer in layers.values()})
        found |= {"alpha": "not recorded" if unknown else alphas, **weights.settings}
        found |= {"targets": sorted({path.rpartition(".")[2] for path in layers})}
        found |= {"frozen": n} if (n := sum(tensor.numel() for tensor in weights.base.values())) else {}
        tensors = [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)] + [*further.values()]
        for path, layer in layers.items():
            shapes = {"lora_A": list(layer.lora_A.shape), "lora_B": list(layer.lora_B.shape)}
            alpha = None if unknown else layer.lora_alpha
            updates.append({"module": path, "r": layer.r, "alpha": alpha, **shapes, "norm": _norm(layer)})
    found |= {"parameters": sum(t.numel() for t in tensors), "bytes": sum(t.nbytes for t in tensors)}
    found |= {"dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})}
    return {**found, "updates": updates, "further": {name: list(tensor.shape) for name, tensor in further.items()}}


def _write(args: argparse.Namespace, given: Given) -> int:
    adapter = read(args.source, given)
    if isinstance(adapter, Model):
        if not isinstance(args.base, Path):
            raise ValueError(f"{adapter.path} is a plain model without LoRA factors")
        replace_weights(args.base, adapter, args.out)
    elif isinstance(args.base, Path):
        merge(args.base, adapter, args.out)
    else:
        for note in export(adapter, args.base, args.out, fan_in_fan_out=args.fan_in_fan_out):
            print("note:", _line(note), file=sys.stderr)
    print(f"wrote {args.out}")
    return 0


def _diff(args: argparse.Namespace, given: Given) -> int:
    a, b = read(args.source, given), read(args.other, given)
    if isinstance(a, Model) != isinstance(b, Model):
        raise ValueError(f"{a.path} and {b.path} are an adapter and a plain model; merge the adapter first")
    if isinstance(a, Adapter) and isinstance(b, Adapter):
        for key in [key for key in a.settings if a.settings[key] != b.settings.get(key, a.settings[key])]:
            print(_line(f"setting {key}: {a.settings[key]} | {b.settings[key]}", 100))
    both: list[Any] = [x if isinstance(x, Model) else {**known_layers(x), **x.further} for x in (a, b)]
    mine, theirs = both
    names = [dict.fromkeys(x.where if isinstance(x, Model) else x) for x in (mine, theirs)]
    rows = [(name, f"only in {'A' if name in names[0] else 'B'}", "") for name in sorted(names[0].keys() ^ names[1])]
    common = [name for name in names[0] if name in names[1]]
    for name in common:
        difference, relative = _difference(mine[name], theirs[name])
        if not (difference == 0 or relative <= args.tolerance):
            rows.append((name, f"{difference:.3e}", f"{relative:.3e}"))
    _print_table(("different", "largest", "relative"), rows)
    total = len(names[0] | names[1])
    print(f"{total - len(rows)} of {total} equal")
    return 1 if rows else 0


# --- updates ---------------------------------------------------------------------------------------------------------


def _whole(layer: LoRALayer) -> tuple[Tensor, Tensor]:
    """A (g*r, in) and B (out, g*r) in float64, B zero outside the g adapted blocks."""
    A, B = layer.lora_A.double(), layer.lora_B.double()
    if isinstance(layer, MergedLinear):
        adapted = [size for size, on in zip(layer.block_sizes, layer.enable_lora) if on]
        B = layer.zero_pad(torch.block_diag(*B.split(adapted)))
    return A, B


def _norm(layer: LoRALayer) -> float:
    """Frobenius norm of the update, from (g*r, g*r) matrices: the update itself is not built."""
    A, B = _whole(layer)
    square = ((B.T @ B) * (A @ A.T)).sum().item()  # trace(A' B' B A)
    return abs(layer.scaling) * (square if math.isnan(square) else math.sqrt(max(square, 0.0)))


def _difference(a: Tensor | LoRALayer, b: Tensor | LoRALayer) -> tuple[float, float]:
    """Largest absolute difference of two tensors or updates, and that divided by their largest entry."""
    shapes = [x.shape if isinstance(x, Tensor) else x.weight.shape for x in (a, b)]
    if isinstance(a, Tensor) != isinstance(b, Tensor) or shapes[0] != shapes[1]:
        return math.inf, math.inf
    if isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b):
        return 0.0, 0.0
    differences, entries = [0.0], [0.0]
    for x, y in zip(_pieces(a), _pieces(b)):
        apart = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, (x - y).abs())
        differences.append(apart.max().item())
        entries += [piece.abs().nan_to_num().max().item() for piece in (x, y)]
    difference = math.nan if any(map(math.isnan, differences)) else max(differences)
    return difference, difference / max(entries) if max(entries) else difference


def _pieces(value: Tensor | LoRALayer) -> Iterator[Tensor]:
    """The numbers of a tensor, or of the update of a layer, in float64, some million at a time."""
    if isinstance(value, Tensor):
        yield from (piece.double() for piece in value.flatten().split(_PIECE) if len(piece))
    else:
        A, B = _whole(value)
        yield from (value.scaling * (rows @ A) for rows in B.split(max(1, _PIECE // A.shape[1])))


if __name__ == "__main__":
    sys.exit(main())
