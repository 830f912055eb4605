"""Where the contract's data lies: files of names, signatures and recorded numbers.

Small files are part of the repository (`tests/contract/data`). The large ones are looked up in
the folder that the environment variable BREVITAS_CONTRACT_DIR names; tests that need one of those
are skipped where it is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def contract_folders() -> list[Path]:
    """List the folders that may hold contract files, the first choice first."""
    folders = [REPOSITORY / "tests" / "contract" / "data"]
    named = os.environ.get("BREVITAS_CONTRACT_DIR")
    return [*folders, Path(named)] if named else folders


def contract_path(name: str) -> Path | None:
    """Find a contract file or folder by name, or return None."""
    candidates = (folder / name for folder in contract_folders())
    return next((path for path in candidates if path.exists()), None)
