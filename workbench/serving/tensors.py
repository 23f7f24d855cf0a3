"""What safetensors files hold, from their headers alone: names, shapes and types, without torch."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from workbench.errors import UserError
from workbench.models import read_object

_LONGEST = 100_000_000  # bytes of a header that the format allows


@dataclass(frozen=True)
class Tensor:
    """One tensor: its shape, its type (`BF16`, `F32`, `I8`, …), its size in bytes, and the file that holds it."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    file: Path

    @property
    def is_float(self) -> bool:
        """Whether it holds weights of 16 bits or more, and not packed or scaled codes."""
        return self.dtype in ("BF16", "F16", "F32", "F64")


def _files(folder: Path) -> list[Path]:
    """The files that make up the model: a repository may hold its weights a second time (`consolidated*`)."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = read_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{index}: weight_map names no files.")
        return [folder / name for name in sorted(set(places.values()))]
    every = sorted(folder.glob("*.safetensors"))
    return [path for path in every if not path.name.startswith("consolidated")] or every


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files, by name; of those in its index, where it has one.

    Raises:
        UserError: a file is damaged; the message names it.
    """
    found: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= _LONGEST:
                    raise ValueError("its header has no length")
                header = json.loads(file.read(length))
                header.pop("__metadata__", None)
                ends = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
                if path.stat().st_size != ends:
                    raise ValueError(f"it has {path.stat().st_size:,} bytes, its header says {ends:,}")
                for name, entry in header.items():
                    begin, end = entry["data_offsets"]
                    found[name] = Tensor(tuple(entry["shape"]), entry["dtype"], end - begin, path)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{path} cannot be read as safetensors: {error}.") from None
    return found


def bytes_as(folder: Path, dtype: str) -> int:
    """Bytes of a model's weights once they are loaded in a type: floats converted, packed codes as they are.

    Args:
        folder: the model's.
        dtype: `bfloat16`, `float16` or `float32`.

    Raises:
        UserError: as `read_headers`.
    """
    each = 4 if dtype == "float32" else 2
    tensors = read_headers(folder).values()
    return sum(prod(tensor.shape) * each if tensor.is_float else tensor.bytes for tensor in tensors)
