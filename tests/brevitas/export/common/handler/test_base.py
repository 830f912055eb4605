"""The handler base."""

from __future__ import annotations

import pytest
from torch import nn

from brevitas.export.common.handler.base import BaseHandler


def test_prepare_is_required() -> None:
    with pytest.raises(TypeError, match="prepare_for_export"):
        BaseHandler()


def test_debug_name_is_taken_over() -> None:
    class Handler(BaseHandler):
        def prepare_for_export(self, module: nn.Module) -> None:
            pass

    module = nn.Linear(1, 1)
    module.export_debug_name = "encoder.fc"
    handler = Handler()
    handler.attach_debug_info(module)
    assert handler.debug_name == "encoder.fc"
