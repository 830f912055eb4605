"""A process that measures one library in its own interpreter, command by command.

It reads one JSON object a line and answers with one: ``{"value": ...}``, ``{"unsupported": why}``
or ``{"error": what}``. Whatever else is printed goes to the standard error.

    python -c '...run benchmarks.worker...' LIBRARY THREADS CHECKOUT
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.library import Library, Unsupported, load_library
from benchmarks.twins import Case, Twins


class Worker:
    """Answers commands about one library.

    Args:
        name: of the library.
        checkout: folder that the library must not come from; empty for this library itself.
    """

    def __init__(self, name: str, checkout: str) -> None:
        self.name, self.checkout = name, checkout
        self.library: Library | None = None
        self.twins: Twins | None = None

    def load(self) -> dict[str, str]:
        """Import the library, and say what it is."""
        self.library = load_library(self.name)
        brevitas = sys.modules.get("brevitas")
        if self.checkout and brevitas is not None:
            path = Path(str(brevitas.__file__))
            if path.is_relative_to(self.checkout):
                raise ImportError(f"{path} is this checkout; expected an installed release.")
        return {"version": version(self.library.distribution), "torch": torch.__version__}

    def begin(self, case: list[Any]) -> None:
        """Build the twins of a case."""
        self.end()
        assert self.library is not None
        self.twins = Twins(self.library, Case(*case))

    def end(self) -> None:
        """Forget the twins."""
        if self.twins is not None:
            self.twins.close()
            self.twins = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked for; an error is an answer, too."""
        name, arguments = command["do"], command.get("with", [])
        own = name in ("load", "begin", "end")
        try:
            return {"value": getattr(self if own else self.twins, name)(*arguments)}
        except (Unsupported, ImportError) as reason:
            return {"unsupported": str(reason)}
        except Exception as error:  # the parent reports it, and goes on with the next case
            first = str(error).strip().partition("\n")[0]
            return {"error": f"{type(error).__name__}: {first}"}


def serve(worker: Worker, commands: TextIO, answers: TextIO) -> None:
    """Answer until there are no more commands."""
    for line in commands:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    name, threads, checkout = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # Libraries print: only answers may reach the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Worker(name, checkout), sys.stdin, answers)


if __name__ == "__main__":
    main()
