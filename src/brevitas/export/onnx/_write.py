"""Write a finished graph so that a file is whole or not there. Layer: export (L8)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from brevitas._compat import require

__all__ = ["LARGEST_MESSAGE", "write_model"]

# A protobuf message holds less than 2 GiB; above that, weights go to a file of their own.
LARGEST_MESSAGE = 2**31 - 2**20


def write_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a graph under a temporary name and move it into place.

    Args:
        model: an ``onnx.ModelProto``.
        path: where to write. Weights of more than 2 GiB go to ``<name>.data`` next to it.
    """
    onnx = require("onnx", "export")
    target = Path(path)
    data_name = f"{target.name}.data"
    large = model.ByteSize() > LARGEST_MESSAGE
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        if large:
            onnx.save_model(
                model, written, save_as_external_data=True, location=data_name, size_threshold=1024
            )
            os.replace(Path(folder) / data_name, target.with_name(data_name))
        else:
            onnx.save_model(model, written)
        os.replace(written, target)
