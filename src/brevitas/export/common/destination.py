"""Where an export is written to: a path, or a file that is open. Layer: export (L8)."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

__all__ = ["Destination", "check_destination", "write_whole"]


@runtime_checkable
class _Writable(Protocol):
    """Anything with a method ``write``: files, buffers, the wrappers of ``tempfile``."""

    def write(self, data: bytes, /) -> object: ...


Destination = str | os.PathLike[str] | IO[bytes]


def check_destination(destination: object) -> None:
    """Raise where nothing can be written, before a model is traced for it.

    Args:
        destination: a path, a file opened for writing bytes, or None for no file.

    Raises:
        TypeError: on anything else.
        FileNotFoundError: where the folder of a path does not exist.
        IsADirectoryError: where a path is that of a folder.

    Example:
        >>> check_destination(3)
        Traceback (most recent call last):
        TypeError: export_path=3: expected a path, a file opened for writing bytes, or None.
    """
    if isinstance(destination, io.TextIOBase):
        raise TypeError(f"export_path={destination!r}: opened for text; open it with mode 'wb'.")
    if destination is None or isinstance(destination, _Writable):
        return
    if not isinstance(destination, (str, os.PathLike)):
        raise TypeError(
            f"export_path={destination!r}: expected a path, a file opened for writing bytes, or "
            "None."
        )
    path = Path(os.fsdecode(destination))
    if path.is_dir():
        raise IsADirectoryError(f"export_path={str(path)!r}: is a folder; add a file name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"export_path={str(path)!r}: there is no folder {str(path.parent)!r}; create it first."
        )


def write_whole(destination: Destination, write: Callable[[Any], object]) -> None:
    """Write so that all of it arrives, or nothing.

    Args:
        destination: a path, or a file opened for writing bytes.
        write: writes to what it is called with: the path of a temporary file of the same name,
            or a buffer in memory.
    """
    if not isinstance(destination, (str, os.PathLike)):
        buffer = io.BytesIO()
        write(buffer)
        destination.write(buffer.getvalue())
        return
    target = Path(destination)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        write(str(written))
        os.replace(written, target)
