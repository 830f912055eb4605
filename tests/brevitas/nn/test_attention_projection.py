"""Input projections of multi-head attention, and the names of their parameters."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.nn._attention_projection import PROJECTIONS, project_packed, rename_float_state
from brevitas.quant import Int8ActPerTensorFloat

X, Y, Z = (
    torch.randn(size, 2, 4, generator=torch.Generator().manual_seed(size)) for size in (3, 5, 5)
)
INPUTS = {
    "self": (X, X, X),
    "memory": (X, Y, Y),
    "all differ": (X, Y, Z),
    "value is query": (Y, Z, Y),
    "key is query": (Y, Y, Z),
}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("sequence_dim", [0, 1])
def test_each_input_meets_its_part_of_the_weight(inputs, sequence_dim):
    torch.manual_seed(0)
    layer = qnn.QuantLinear(4, 12, weight_quant=None)
    moved = {id(x): x.transpose(0, sequence_dim) for x in INPUTS[inputs]}
    given = [moved[id(x)] for x in INPUTS[inputs]]
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    projected = project_packed(layer, *given, sequence_dim)
    assert calls == [1]
    for x, part, weight, bias in zip(
        given, projected, layer.weight.chunk(3), layer.bias.chunk(3), strict=True
    ):
        torch.testing.assert_close(part, torch.nn.functional.linear(x, weight, bias))


def test_inputs_share_one_scale_and_one_step_of_its_statistics():
    layer = qnn.QuantLinear(4, 12, input_quant=Int8ActPerTensorFloat)
    seen = []
    layer.input_quant.register_forward_hook(
        lambda _, args, output: seen.append(output.scale.item())
    )
    project_packed(layer, X, Y, Z, 0)
    (scale,) = seen
    largest = max(float(x.abs().max()) for x in (X, Y, Z))
    # The high percentile of so few values is their maximum; 128 steps reach it.
    torch.testing.assert_close(scale * 128, largest)


def test_quantized_inputs_are_put_together_by_their_scale():
    layer = qnn.QuantLinear(4, 12, return_quant_tensor=True)
    identity = qnn.QuantIdentity(return_quant_tensor=True)
    identity(X)
    queries, keys = identity.eval()(X), identity(Y)
    projected = project_packed(layer, queries, keys, keys, 0)
    weight = layer.quant_weight().value
    expected = queries.value @ weight[:4].T + layer.bias[:4]
    torch.testing.assert_close(projected[0], expected)
    with pytest.raises(RuntimeError, match="Scaling factors are different"):
        other = qnn.QuantIdentity(return_quant_tensor=True).eval()(9 * Y)
        project_packed(layer, queries, other, other, 0)


def _state(prefix, names, size=6):
    return {f"{prefix}{name}": torch.arange(float(size)) for name in names}


def test_packed_names():
    state = _state("a.", ["in_proj_weight", "in_proj_bias", "out_proj.weight", "bias_k"])
    rename_float_state(state, "a.", is_packed=True)
    assert set(state) == {"a.in_proj.weight", "a.in_proj.bias", "a.out_proj.weight", "a.bias_k"}


def test_separate_names_of_a_packed_weight():
    state = _state("", ["in_proj_weight", "in_proj_bias"])
    rename_float_state(state, "", is_packed=False)
    assert set(state) == {f"{name}.{kind}" for name in PROJECTIONS for kind in ("weight", "bias")}
    assert torch.equal(
        torch.cat([state[f"{name}.weight"] for name in PROJECTIONS]), torch.arange(6.0)
    )


def test_separate_names_of_separate_weights():
    state = _state("", [f"{name}_weight" for name in PROJECTIONS])
    rename_float_state(state, "", is_packed=False)
    assert set(state) == {f"{name}.weight" for name in PROJECTIONS}


def test_other_names_stay():
    state = _state("b.", ["in_proj_weight"]) | _state("", ["weight"])
    rename_float_state(state, "a.", is_packed=True)
    assert set(state) == {"b.in_proj_weight", "weight"}
