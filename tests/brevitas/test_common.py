"""The export state of layers and proxies."""

from __future__ import annotations

import pytest
from torch import nn

from brevitas.common import ExportMixin, QuantLayerConfigurationError
from brevitas.nn import QuantLinear


class Part(ExportMixin, nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        ExportMixin.__init__(self)


def test_state_of_a_new_part() -> None:
    part = Part()
    assert not part.export_mode
    assert part.export_handler is None
    assert part.export_debug_name is None
    assert not part.export_input_debug
    assert not part.export_output_debug


def test_export_mode_needs_evaluation() -> None:
    part = Part()
    with pytest.raises(RuntimeError, match=r"during training.*\.eval\(\).*Layer: Part"):
        part.export_mode = True
    part.eval().export_mode = True
    assert part.export_mode
    part.train().export_mode = False
    assert not part.export_mode


def test_a_handler_may_be_a_module() -> None:
    part = Part()
    part.export_handler = nn.Identity()
    assert isinstance(part.export_handler, nn.Identity)


def test_the_mixin_asks_for_a_declaration() -> None:
    with pytest.raises(NotImplementedError, match="Part does not declare"):
        _ = Part().requires_export_handler


def test_layers_and_proxies_carry_the_state() -> None:
    layer = QuantLinear(2, 2)
    for module in (layer, layer.weight_quant, layer.input_quant):
        assert isinstance(module, ExportMixin)
        assert not module.export_mode
    assert layer.weight_quant.requires_export_handler
    assert not layer.input_quant.requires_export_handler


def test_configuration_errors_are_of_both_kinds() -> None:
    assert issubclass(QuantLayerConfigurationError, (RuntimeError, AssertionError))
