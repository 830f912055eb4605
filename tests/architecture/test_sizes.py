"""Files and functions stay small, and nothing is written three times.

Code lines are lines without blanks, comments and docstrings.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

from architecture.source_tree import Module, expect_none, is_shim, modules

FILE_MEDIAN = 150
FILE_LIMIT = 400
FUNCTION_LIMIT = 40
FUNCTION_SHARE_ABOVE = 0.03
FUNCTION_HARD_LIMIT = 80
CLONE_WINDOW = 6
CLONE_SHARE = 0.08


def test_file_sizes() -> None:
    sizes = {module: len(module.code_lines) for module in modules().values()}
    offenders = [f"{m.at(1)}: {size} lines" for m, size in sizes.items() if size > FILE_LIMIT]
    expect_none(offenders, f"file above {FILE_LIMIT} code lines")
    median = statistics.median(size for m, size in sizes.items() if not is_shim(m))
    assert median <= FILE_MEDIAN, f"median file has {median} code lines, limit {FILE_MEDIAN}"


def test_function_sizes() -> None:
    sizes = [
        (module.code_lines_of(function), f"{module.at(function.lineno)}: {function.name}")
        for module in modules().values()
        for function in module.functions()
    ]
    large = sorted(((size, at) for size, at in sizes if size > FUNCTION_LIMIT), reverse=True)
    offenders = [f"{at}, {size} lines" for size, at in large]
    huge = [text for (size, _), text in zip(large, offenders, strict=True) if size > 80]
    expect_none(huge, f"function above {FUNCTION_HARD_LIMIT} code lines")
    allowed = FUNCTION_SHARE_ABOVE * len(sizes)
    if len(large) > allowed:
        expect_none(offenders, f"function above {FUNCTION_LIMIT} code lines")


def test_clone_share() -> None:
    """The share of lines inside a window of six equal lines that stands at least twice."""
    places: dict[tuple[str, ...], list[tuple[Module, int]]] = defaultdict(list)
    total = 0
    for module in modules().values():
        text = [module.text.splitlines()[number - 1].strip() for number in module.code_lines]
        total += len(text)
        for start in range(len(text) - CLONE_WINDOW + 1):
            places[tuple(text[start : start + CLONE_WINDOW])].append((module, start))
    repeated = [copies for copies in places.values() if len(copies) > 1]
    cloned = {
        (module.name, start + offset)
        for copies in repeated
        for module, start in copies
        for offset in range(CLONE_WINDOW)
    }
    share = len(cloned) / max(total, 1)
    if share > CLONE_SHARE:
        expect_none(_clones(repeated), f"repeated passage; {share:.1%} of the code is repeated")


def _clones(repeated: list[list[tuple[Module, int]]]) -> list[str]:
    """Name the places of each repeated passage, overlapping windows as one."""
    known = {tuple(copies) for copies in repeated}
    return [
        " = ".join(module.at(module.code_lines[start]) for module, start in copies)
        for copies in repeated
        if tuple((module, start - 1) for module, start in copies) not in known
    ]
