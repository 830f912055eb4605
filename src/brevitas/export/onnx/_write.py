"""Write a finished graph so that a file is whole or not there. Layer: export (L8)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from brevitas._compat import require
from brevitas.export.common.destination import Destination, write_whole

__all__ = ["LARGEST_MESSAGE", "write_model"]

# A protobuf message holds less than 2 GiB; above that, weights go to a file of their own.
LARGEST_MESSAGE = 2**31 - 2**20


def write_model(model: Any, destination: Destination) -> None:
    """Write a graph under a temporary name and move it into place.

    Args:
        model: an ``onnx.ModelProto``.
        destination: a path, or a file opened for writing bytes. Weights of more than 2 GiB go to
            ``<name>.data`` next to a path.

    Raises:
        ValueError: on more than 2 GiB for a file that is open, next to which nothing can lie.
    """
    onnx = require("onnx", "export")
    size = model.ByteSize()
    if size <= LARGEST_MESSAGE:
        write_whole(destination, lambda target: onnx.save_model(model, target))
        return
    if not isinstance(destination, (str, os.PathLike)):
        raise ValueError(
            f"export_path={destination!r}: {size} bytes are too many for one message; give a path, "
            "next to which the weights go to a file of their own."
        )
    target = Path(destination)
    data_name = f"{target.name}.data"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        onnx.save_model(
            model, written, save_as_external_data=True, location=data_name, size_threshold=1024
        )
        os.replace(Path(folder) / data_name, target.with_name(data_name))
        os.replace(written, target)
