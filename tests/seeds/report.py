"""Pytest plugin that writes `docs/seeds.md`: which test checks which row, and how it ended.

The file is written at the end of a run in which every row was checked, by the process that
collects the results of the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from seeds.facts import checkable_rows, load, row_of_test, rows

TABLE = Path(__file__).resolve().parents[2] / "docs" / "seeds.md"

_HEAD = """# The tutorials, row by row

The interface is specified by five tutorials. Each behaviour, name, printed number and error in
them is a row below; the test named beside it checks the row. {checked} rows are checked,
{unchecked} cannot be. The test suite writes this file (`tests/seeds/report.py`).
"""


class _Results:
    """Outcome of each test that checks a row, in the order in which they ran."""

    def __init__(self) -> None:
        self.passed: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test that checks a row."""
        if row_of_test(report.nodeid) is None:
            return
        if report.when == "call" or not report.passed:
            earlier = self.passed.get(report.nodeid, True)
            self.passed[report.nodeid] = earlier and report.passed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the table, unless this is a worker or only a part of the tests was run."""
        is_worker = hasattr(session.config, "workerinput")
        seen = {row_of_test(node) for node in self.passed}
        if not is_worker and seen.issuperset(checkable_rows()):
            write(render(self.passed))


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugin."""
    config.pluginmanager.register(_Results(), "seeds-report")


def _tests_by_row(passed: Mapping[str, bool]) -> dict[str, dict[str, bool]]:
    """Row -> test function without its parameters -> whether all its cases passed."""
    by_row: dict[str, dict[str, bool]] = {}
    for node, ok in passed.items():
        row = row_of_test(node)
        if row is not None:
            tests = by_row.setdefault(row, {})
            name = node.partition("[")[0].removeprefix("tests/seeds/").replace("::", ": ")
            tests[name] = tests.get(name, True) and ok
    return by_row


def render(passed: Mapping[str, bool]) -> str:
    """Return the page for the outcomes of all tests."""
    by_row = _tests_by_row(passed)
    checked = len(checkable_rows())
    lines = [_HEAD.format(checked=checked, unchecked=len(rows()) - checked)]
    for prefix, title in load("rows.json")["documents"].items():
        lines += [f"## {title}", "", "| row | states | result | test |", "|---|---|---|---|"]
        for row, entry in rows().items():
            if row.startswith(prefix):
                lines.append(_line(row, entry, by_row.get(row, {})))
        lines.append("")
    return "\n".join(lines)


def _line(row: str, entry: Mapping[str, str], tests: Mapping[str, bool]) -> str:
    statement = entry["statement"].replace("|", "\\|")
    if "unchecked" in entry:
        return f"| {row} | {statement} | not checkable | {entry['unchecked']} |"
    result = "passes" if tests and all(tests.values()) else "fails"
    names = ", ".join(f"`{name}`" for name in sorted(tests))
    return f"| {row} | {statement} | {result} | {names} |"


def write(text: str) -> None:
    """Write the page where it changed."""
    TABLE.parent.mkdir(exist_ok=True)
    if not TABLE.exists() or TABLE.read_text(encoding="utf-8") != text:
        TABLE.write_text(text, encoding="utf-8")
