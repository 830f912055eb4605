"""What the documents say is true: code blocks run, files they name exist, the layer table holds."""

from __future__ import annotations

import re
from importlib.metadata import requires

import pytest

import brevitas
from architecture.layers import LAYERS
from architecture.source_tree import PACKAGE, REPOSITORY, SOURCE, expect_none, modules

DOCUMENTS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("*.md", "examples/*.md", "notebooks/*.md", "docs/**/*.md")
    for path in REPOSITORY.glob(pattern)
)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`([\w./-]+(?:\.py|\.toml|\.md|/))`")
LINKED_FILE = re.compile(r"\]\((?!https?:)([^)#]+)")
# Files that running something makes.
MADE = ("build/", ".venv/")
# Files named as an example of how files are named.
EXAMPLES_OF_NAMES = ("src/brevitas/a/b.py", "tests/brevitas/a/test_b.py")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_blocks_run(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for number, code in enumerate(PYTHON_BLOCK.findall(text), 1):
        exec(compile(code, f"{document}, block {number}", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    path = REPOSITORY / document
    text = path.read_text(encoding="utf-8")
    folders = (path.parent, REPOSITORY, SOURCE / PACKAGE)
    offenders = [
        name
        for name in NAMED_FILE.findall(text) + LINKED_FILE.findall(text)
        if not name.startswith((*MADE, "../"))
        and name not in EXAMPLES_OF_NAMES
        and not any((folder / name).exists() for folder in folders)
    ]
    expect_none(offenders, f"file named in {document} that does not exist")


def test_the_layer_table_is_the_one_enforced() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (L\d) \| (.*?) \|", text, re.MULTILINE))
    offenders = [
        f"{entry} is not in the row of {layer}"
        for layer, entries in LAYERS
        for entry in entries
        if f"{PACKAGE}.{entry}" in modules()
        and not entry.startswith("core.")
        and f"`{entry}`" not in rows[layer[:2]]
    ]
    expect_none(offenders, "package that ARCHITECTURE.md does not place")


def test_the_layer_table_places_only_what_exists() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| L\d \| (.*?) \|", text, re.MULTILINE)
    named = {f"{PACKAGE}.{entry}" for cell in cells for entry in re.findall(r"`([\w.]+)`", cell)}
    enforced = {f"{PACKAGE}.{entry}" for _, entries in LAYERS for entry in entries}
    expect_none(sorted((named | enforced) - set(modules())), "package that is not there")


def test_torch_is_the_only_required_dependency() -> None:
    required = [line for line in requires(PACKAGE) or [] if "extra ==" not in line]
    assert [re.split(r"[<>=~! ]", line)[0] for line in required] == ["torch"]


def test_the_version_is_that_of_the_package() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{brevitas.__version__}"' in text
