"""`brevitas.quant` and `brevitas.proxy` hand out what their modules hold."""

from __future__ import annotations

import pytest

import brevitas.proxy
import brevitas.quant
from brevitas.proxy import ActFloatQuantProxyFromInjector, WeightFloatQuantProxyFromInjector
from brevitas.quant import fixed_point, scaled_int, shifted_scaled_int

SEARCHED = [
    (module, name)
    for module in (fixed_point, scaled_int, shifted_scaled_int)
    for name in module.__all__
    if name.endswith("MSE") or (name.endswith("HQO") and name.startswith("ShiftedUint8"))
    if "PerGroup" not in name
]


@pytest.mark.parametrize(("module", "name"), SEARCHED, ids=[name for _, name in SEARCHED])
def test_searched_quantizers_are_in_the_package(module, name):
    assert getattr(brevitas.quant, name) is getattr(module, name)
    assert name in brevitas.quant.__all__


def test_proxies_of_minifloats_are_in_the_package():
    assert brevitas.proxy.ActFloatQuantProxyFromInjector is ActFloatQuantProxyFromInjector
    assert brevitas.proxy.WeightFloatQuantProxyFromInjector is WeightFloatQuantProxyFromInjector
