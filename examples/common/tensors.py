"""Files of weights, read without running what a pickle asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from examples.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The dict of a ``torch.save`` or safetensors file, onto the CPU, in file order.

    Raises:
        UserError: no such file, or not a dict of tensors.
    """
    import torch  # a second, which --help should not take

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises whatever its bytes happen to call for
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a file of weights ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: expected a dict of tensors")
    return content
