"""The page of results."""

from __future__ import annotations

import json

import pytest
from benchmarks.__main__ import as_data, as_results, machine, merged, processor
from benchmarks.measure import ratio
from benchmarks.render import Result, page, shown
from benchmarks.rows import Row, rows

TIME = ratio([3.0, 3.0, 3.0], [2.0, 2.0, 2.0])


def test_every_figure_has_its_row_and_both_published_columns():
    table = {row.name: row for row in rows()}
    assert len(table) == len(rows())
    learned = table["CNN: train step, learned phase"]
    assert (learned.reach, learned.brevitas, learned.modelopt) == ("1.4", "2.1 to 2.8", "1.34")
    assert all((row.case is None) != (row.take is None) for row in rows())


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (TIME, "1.50 (1.50 to 1.50)"),
        ({"unsupported": "no"}, "not supported"),
        ({"seconds": 0.25, "loads_dynamo": 1.0}, "0.25 s, loads torch._dynamo"),
        ({"graphs_of": {"training": 2, "evaluation": 1, "breaks": 0}}, "2, then 1; 0 breaks"),
        ({"ratio": 3.0, "operations": 1234, "reference_operations": 300}, "1,234"),
    ],
)
def test_cells(figure, text):
    assert shown(figure) == text


def test_page_has_a_column_for_each_peer_and_reasons_below():
    row, other = Row("first", "1.2", "2.4"), Row("second", "")
    results = [
        Result(row, TIME, {"torchao": {"unsupported": "no such layer."}}),
        Result(other, TIME, {"torchao": TIME}),
    ]
    text = page(results, {"threads": 1}, {"torchao": "0.18"})
    assert "| first | 1.50 (1.50 to 1.50) | 1.2 | 3000.00 ms against 2000.00 | 2.4 |" in text
    assert "- torchao: first: no such layer." in text and "- threads: 1" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and {line.count("|") for line in table} == {8}


def test_a_file_keeps_the_figures_of_other_rows(tmp_path):
    first, second = rows()[:2]
    path, about = tmp_path / "figures.json", {"machine": machine(), "peers": {}, "figures": {}}
    assert merged(path, about) is about
    path.write_text(json.dumps({**about, "figures": as_data([Result(second, TIME, {})])}))
    both = merged(path, {**about, "figures": as_data([Result(first, TIME, {})])})
    assert [result.row for result in as_results(both["figures"])] == [first, second]
    with pytest.raises(ValueError, match="expected"):
        merged(path, {**about, "machine": {}})


def test_the_machine_is_described():
    about = machine()
    assert about["processor"] == processor() != "" and about["clock"] == "process_time"


def test_what_was_measured_of_another_library_stays(tmp_path):
    path, (row, *_) = tmp_path / "figures.json", rows()
    about = {
        "machine": machine(),
        "peers": {},
        "figures": as_data([Result(row, TIME, {"a": TIME})]),
    }
    path.write_text(json.dumps(about))
    now = {**about, "figures": as_data([Result(row, TIME, {"b": TIME})])}
    assert merged(path, now)["figures"][row.name]["peers"].keys() == {"a", "b"}
