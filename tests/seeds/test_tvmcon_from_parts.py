"""TVMCon tutorial, cells 32 and 33: the parts of a quantizer, and how they are put together."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas import config, jit
from brevitas.nn import QuantLinear, QuantReLU
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int16Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerTensorFloat,
)
from programs import run_program
from seeds.facts import assert_prints, load
from seeds.learned_quantizers import LearnedIntActPerTensorFloat, LearnedIntWeightPerChannelFloat
from seeds.user_parts import LearnedRange, fit

# Helper modules further inside, which the tutorials print differently.
FREE = re.compile(r"_zero_hw_sentinel|\.restrict_")


def tree(text: str) -> dict[str, str]:
    """Read the text of a module: path of each part -> name of its class."""
    path: list[str] = []
    parts = {}
    for line in text.splitlines():
        match = re.match(r"( *)\((\w+)\): (\w+)\(", line)
        if match:
            path[len(match[1]) // 2 - 1 :] = [match[2]]
            parts[".".join(path)] = match[3]
    return parts


def test_s0_53_module_tree_of_a_quantized_relu() -> None:
    printed = tree(load("numbers.json")["S0-53"]["repr_text"])
    fixed = {path: name for path, name in printed.items() if not FREE.search(path)}
    inside = "act_quant.fused_activation_quant_proxy.tensor_quant"
    assert len(printed) - len(fixed) == 7
    assert fixed[f"{inside}.scaling_impl.stats.stats_impl"] == "AbsPercentile"
    text = repr(QuantReLU())
    assert text.startswith("QuantReLU(\n")
    found = tree(text)
    assert {path: found.get(path) for path in fixed} == fixed
    # In the printed order, and reachable by the printed names.
    assert [path for path in found if path in fixed] == list(fixed)
    layer = QuantReLU()
    assert all(type(layer.get_submodule(path)).__name__ == fixed[path] for path in fixed)


COMPONENTS = {
    "brevitas.core.function_wrapper": ("TensorClamp", "OverTensorView", "RoundSte"),
    "brevitas.core.scaling": ("ParameterFromRuntimeStatsScaling", "IntScaling"),
    "brevitas.core.stats": ("AbsPercentile",),
    "brevitas.core.restrict_val": ("FloatRestrictValue",),
    "brevitas.core.bit_width": ("BitWidthConst",),
    "brevitas.core.quant": ("IntQuant", "RescalingIntQuant"),
    "brevitas.core.zero_point": ("ZeroZeroPoint",),
}


@pytest.mark.parametrize(("module", "names"), COMPONENTS.items())
def test_s0_54_imports_of_the_parts(module: str, names: tuple[str, ...]) -> None:
    for name in names:
        part = getattr(import_module(module), name)
        assert issubclass(part, nn.Module) and part.__name__ == name


def cell_33() -> nn.Module:
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import OverTensorView, RoundSte, TensorClamp
    from brevitas.core.quant import IntQuant, RescalingIntQuant
    from brevitas.core.scaling import IntScaling, ParameterFromRuntimeStatsScaling
    from brevitas.core.stats import AbsPercentile
    from brevitas.core.zero_point import ZeroZeroPoint

    tensor_quant = RescalingIntQuant(
        int_quant=IntQuant(
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClamp(),
            signed=False,
            narrow_range=False),
        zero_point_impl=ZeroZeroPoint(),
        bit_width_impl=BitWidthConst(bit_width=8),
        int_scaling_impl=IntScaling(signed=False, narrow_range=False),
        scaling_impl=ParameterFromRuntimeStatsScaling(
            scaling_stats_input_view_shape_impl=OverTensorView(),
            scaling_stats_impl=AbsPercentile(
                high_percentile_q=99.999, stats_reduce_dim=None),
            collect_stats_steps=300)
    )  # fmt: skip
    return tensor_quant


def test_s0_55_a_quantizer_assembled_by_hand_is_that_of_the_layer() -> None:
    by_hand = cell_33()
    torch.manual_seed(0)
    value, scale, zero_point, bit_width = by_hand(torch.randn(3, 2).relu())
    # The layer of cell 11 on the same input.
    assert_prints(value, "S0-18", "value")
    assert_prints(scale, "S0-18", "scale")
    assert_prints(bit_width, "S0-18", "bit_width")
    assert zero_point == 0
    layer = QuantReLU(return_quant_tensor=True)
    by_hand = cell_33()
    for _ in range(301):  # through the collection of statistics, into the learned phase
        x = torch.randn(64)
        expected = layer(x)
        value, scale, *_ = by_hand(x.relu())
        assert torch.equal(value, expected.value) and torch.equal(scale, expected.scale)
    built = layer.act_quant.fused_activation_quant_proxy.tensor_quant
    assert list(by_hand.state_dict()) == list(built.state_dict())
    assert tree(repr(by_hand)).keys() == tree(repr(built)).keys()


def test_s0_55_a_part_of_ones_own_by_hand_is_trained() -> None:
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import RoundSte, TensorClamp
    from brevitas.core.quant import IntQuant, RescalingIntQuant
    from brevitas.core.scaling import IntScaling
    from brevitas.core.zero_point import ZeroZeroPoint

    tensor_quant = RescalingIntQuant(
        int_quant=IntQuant(
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClamp(),
            signed=True,
            narrow_range=False),
        zero_point_impl=ZeroZeroPoint(),
        bit_width_impl=BitWidthConst(bit_width=3),
        int_scaling_impl=IntScaling(signed=True, narrow_range=False),
        scaling_impl=LearnedRange(10.0))  # fmt: skip
    x = torch.randn(1000)
    assert tensor_quant(x)[1].item() == 10.0 / 4
    assert list(tensor_quant.state_dict()) == ["scaling_impl.range"]
    before, after = fit(tensor_quant.scaling_impl, lambda x: tensor_quant(x)[0], x)
    # Steps of 2.5 leave most of a normal distribution at zero; the best 8 levels leave 4 % of it.
    assert before > 0.3 and after < 0.06


CELL_11 = """
import torch
from brevitas import config
from brevitas.nn import QuantReLU
from seeds.facts import assert_prints

assert config.JIT_ENABLED
torch.manual_seed(0)

float_input = torch.randn(3, 2)
quant_relu = QuantReLU(return_quant_tensor=True)

quant_output = quant_relu(float_input)

assert_prints(quant_output.value, "S0-18", "value")
assert_prints(quant_output.scale, "S0-18", "scale")
assert_prints(quant_output.bit_width, "S0-18", "bit_width")
print(quant_output.value.tolist())
"""


def test_s0_56_compiled_quantizers_give_the_same_numbers() -> None:
    printed = run_program(CELL_11, BREVITAS_JIT="1")
    torch.manual_seed(0)
    expected = QuantReLU(return_quant_tensor=True)(torch.randn(3, 2)).value
    assert printed == f"{expected.tolist()}\n"


def test_s0_56_compilation_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BREVITAS_JIT", raising=False)
    assert runpy.run_path(config.__file__)["JIT_ENABLED"] is False
    monkeypatch.setenv("BREVITAS_JIT", "1")
    assert runpy.run_path(config.__file__)["JIT_ENABLED"] is True


def test_s0_57_every_part_of_a_quantizer_is_a_script_module() -> None:
    assert issubclass(jit.ScriptModule, nn.Module)
    model = nn.Sequential(
        QuantReLU(),
        QuantReLU(act_quant=ShiftedUint8ActPerTensorFloat),
        QuantLinear(2, 4, True, input_quant=Int8ActPerTensorFloat, bias_quant=Int16Bias),
        QuantLinear(2, 4, True, weight_quant=ShiftedUint8WeightPerTensorFloat),
        QuantLinear(2, 4, True, weight_quant=LearnedIntWeightPerChannelFloat),
        QuantReLU(act_quant=LearnedIntActPerTensorFloat),
    )
    parts = {name: part for name, part in model.named_modules() if ".tensor_quant" in name}
    assert sum(name.endswith(".tensor_quant") for name in parts) == 8
    for name, part in parts.items():
        assert isinstance(part, jit.ScriptModule), name
    for names in COMPONENTS.items():
        for name in names[1]:
            assert issubclass(getattr(import_module(names[0]), name), jit.ScriptModule), name


def test_s0_57_a_part_written_as_a_script_module_takes_its_place() -> None:
    class HalfAway(jit.ScriptModule):
        """Round halves away from zero, where the library's rounds them to even."""

        @jit.script_method
        def forward(self, x: Tensor) -> Tensor:
            return x.sign() * (x.abs() + 0.5).floor()

    @jit.script
    def doubled(x: Tensor) -> Tensor:
        return x + x

    layer = QuantReLU(
        act_quant=Int8ActPerTensorFloat.let(scaling_impl_type="CONST", scaling_init=128.0),
        float_to_int_impl=HalfAway,
        return_quant_tensor=True,
    )
    x = torch.tensor([0.5, 1.5, 2.5])
    output: Any = layer(doubled(x / 2))
    assert output.value.tolist() == [1.0, 2.0, 3.0], "to even: 0, 2, 2"
