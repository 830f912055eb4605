"""Run the notebooks beside this file and store what their cells print and draw.

Each runs in a process of the interpreter that runs this file, without its user's settings, so
that the stored outputs depend on the notebook and on the library alone.

    python notebooks/refresh.py [NAME.ipynb ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import default
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "src"
SECONDS_PER_CELL = 120


class ThisInterpreterOnly(KernelSpecManager):
    """Knows one kernel, the interpreter that runs this file, whatever else is installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the command that starts it, by whatever name a notebook asks for it."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


class ThisInterpreter(AsyncKernelManager):
    """Starts and stops the process in which a notebook runs."""

    @default("kernel_spec_manager")
    def _no_installed_kernel(self) -> KernelSpecManager:
        return ThisInterpreterOnly(parent=self)


def notebooks() -> list[Path]:
    """List the notebooks in this folder by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook and check that it is well formed."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(path: Path) -> NotebookNode:
    """Run all cells of a notebook; the file itself stays as it is.

    Args:
        path: The notebook.

    Returns:
        The notebook with the outputs of this run, without traces of the machine it ran on.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised an error.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as scratch:
        connection = {"connection_file": str(Path(scratch) / "kernel.json")}
        if os.name == "posix":
            connection["transport"] = "ipc"  # sockets in the folder, no port that others may take
        client = NotebookClient(
            notebook,
            kernel_manager_class=ThisInterpreter,
            config=Config(KernelManager=connection),
            timeout=SECONDS_PER_CELL,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute(env=_environment(scratch))
    return clean(notebook)


def _environment(scratch: str) -> dict[str, str]:
    """This process's variables; the library of this checkout; no settings of a user."""
    given = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "IPYTHONDIR": scratch,
        "MATPLOTLIBRC": os.devnull,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *([given] if given else [])]),
    }


def clean(notebook: NotebookNode) -> NotebookNode:
    """Keep what says something about the notebook: its cells, their tags, outputs and order."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict(
            {"tags": cell.metadata.tags} if "tags" in cell.metadata else {}
        )
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            if "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)
    return notebook


def text_of(notebook: NotebookNode) -> str:
    """Return the text of the notebook's file."""
    return nbformat.writes(notebook) + "\n"


def main(names: list[str]) -> None:
    """Run the named notebooks, or all, and write them back with their outputs."""
    for path in [FOLDER / name for name in names] or notebooks():
        executed = execute(path)
        path.write_text(text_of(executed), encoding="utf-8")
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in executed.cells)} cells ran")


if __name__ == "__main__":
    main(sys.argv[1:])
