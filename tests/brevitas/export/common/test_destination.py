"""Where an export may be written to, and that a file is whole or not there."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest

from brevitas.export.common.destination import check_destination, write_whole


def test_paths_and_binary_files_are_accepted(tmp_path: Path) -> None:
    check_destination(None)
    for name in (tmp_path / "new", str(tmp_path / "new"), "here"):
        check_destination(name)
    (tmp_path / "old").write_bytes(b"")
    check_destination(tmp_path / "old")
    check_destination(io.BytesIO())
    with tempfile.NamedTemporaryFile() as file:
        check_destination(file)


@pytest.mark.parametrize(
    ("destination", "error", "message"),
    [
        (3, TypeError, "export_path=3: expected a path"),
        (b"x.onnx", TypeError, "expected a path"),
        (io.StringIO(), TypeError, "opened for text"),
    ],
)
def test_anything_else_is_refused(destination: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        check_destination(destination)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing.*create it"):
        check_destination(tmp_path / "missing" / "model.onnx")
    with pytest.raises(IsADirectoryError, match="is a folder; add a file name"):
        check_destination(tmp_path)


def test_writing_to_a_path_and_to_a_file(tmp_path: Path) -> None:
    def write(target: Any) -> None:
        if isinstance(target, str):
            Path(target).write_bytes(b"all")
        else:
            target.write(b"all")

    write_whole(tmp_path / "file", write)
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("file", b"all")]
    stream = io.BytesIO()
    write_whole(stream, write)
    assert stream.getvalue() == b"all"


def test_half_a_file_is_never_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(target: str | IO[bytes]) -> None:
        if isinstance(target, str):
            Path(target).write_bytes(b"half")
        else:
            target.write(b"half")
        raise OSError("disk full")

    stream = io.BytesIO()
    for destination in (path, stream):
        with pytest.raises(OSError, match="disk full"):
            write_whole(destination, fail)
    assert path.read_bytes() == b"old" and stream.getvalue() == b""
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
