"""What a run's folder says of itself, for ``generate.py`` and ``score.py``: base, task, and how rows become text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from examples.common.files import read_json, write_json

FILE = "clm.json"


@dataclass(frozen=True)
class Facts:
    """``word_ids``: the labels' tokens in ``cloze``. The other names are those of the flags."""

    base: str
    task: str
    method: str
    labels: tuple[str, ...] = ()
    word_ids: tuple[int, ...] = ()
    separator: str = "\n"
    chat: bool = False
    template: str = "{text}"
    lowercase: bool = False
    max_seq_length: int = 512


def write_facts(folder: str | Path, facts: Facts) -> None:
    """Leaves them in a folder."""
    write_json(Path(folder) / FILE, asdict(facts))


def read_facts(folder: str | Path) -> Facts | None:
    """Those of a folder; None where it has none, as with a model or adapter from elsewhere.

    Raises:
        UserError: a file of another form.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        known = {field.name for field in fields(Facts)}
        values: Any = {name: tuple(x) if isinstance(x, list) else x for name, x in content.items() if name in known}
        return Facts(**values)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what a run writes: {error}") from None
