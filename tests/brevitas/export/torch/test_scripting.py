"""TorchScript files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from brevitas.export.common.spec import ExportError
from brevitas.export.torch.scripting import check_outputs, script, without_deprecations


def test_what_is_returned_is_what_the_file_holds(tmp_path: Path) -> None:
    layer, x, stream = nn.Linear(3, 2), torch.randn(4, 3), io.BytesIO()
    expected = layer(x).detach()
    with torch.no_grad(), without_deprecations():
        returned = script(layer, (x,), tmp_path / "model.pt")
        script(layer, (x,), stream)
        stream.seek(0)
        files = [returned, torch.jit.load(tmp_path / "model.pt"), torch.jit.load(stream)]
        layer.weight.zero_()
    for file in files:
        assert torch.equal(file(x), expected)


def test_a_module_that_cannot_be_recorded_is_an_error_of_ours() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    with pytest.raises(ExportError, match="tracing failed"), without_deprecations():
        script(Nothing(), (torch.ones(1),), None)


@pytest.mark.parametrize("outputs", [None, (torch.ones(1), 2), [torch.ones(1), (torch.ones(1),)]])
def test_outputs_without_a_type_are_refused(outputs: object) -> None:
    with pytest.raises(ExportError, match="the model returns .*Layer: Net$"):
        check_outputs(outputs, "Net")


def test_other_warnings_come_through() -> None:
    with without_deprecations():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="new"), without_deprecations():
        warnings.warn("new", UserWarning, stacklevel=1)
