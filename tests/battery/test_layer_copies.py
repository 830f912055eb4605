"""What holds for every layer: checkpoints, copies, the meta device."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from layer_rows import ROWS, Kind
from layers import (
    build,
    build_as,
    build_twin,
    data,
    enlarged,
    numbers,
    run,
    trained,
)

WEIGHTED = [name for name, row in ROWS.items() if row.has_weight]
# Without statistics: their scales are start values or constants.
WITHOUT_STATISTICS = [
    *("hardtanh", "identity_binary", "hadamard", "float_scale_bias", "float_attention_product"),
    *(name for name, row in ROWS.items() if row.kind is Kind.INTEGERS and "Saturate" not in name),
]
# What they learn starts from a number, which only a checkpoint restores.
START_VALUES = ("hardtanh", "hadamard", "clamp")


def meta(name):
    if ROWS[name].takes_factory:
        return build(name, device="meta")
    with torch.device("meta"):
        return build(name)


def assert_equal_in_evaluation(name, first, second):
    x = data(name)
    assert torch.equal(numbers(name, first.eval(), x), numbers(name, second.eval(), x))


@pytest.mark.parametrize("name", ROWS)
class TestCheckpoints:
    def test_state_dict_round_trip(self, name):
        source, target, stream = trained(name), build(name), io.BytesIO()
        torch.save(source.state_dict(), stream)
        stream.seek(0)
        target.load_state_dict(torch.load(stream, weights_only=True))
        assert_equal_in_evaluation(name, source, target)

    def test_state_dict_assign(self, name):
        source, target = trained(name), meta(name)
        state = {key: value.clone() for key, value in source.state_dict().items()}
        target.load_state_dict(state, assign=True)
        assert not any(parameter.is_meta for parameter in target.parameters())
        target = target.to_empty(device="cpu")
        target.load_state_dict(source.state_dict())
        assert_equal_in_evaluation(name, source, target)

    def test_fresh_state_holds_no_statistics(self, name):
        state, layer = build(name).state_dict(), build(name)
        missing, unexpected = layer.load_state_dict(state, strict=False)
        assert unexpected == []
        assert set(missing) == set(trained(name).state_dict()) - set(state)
        assert bool(missing) == (name not in WITHOUT_STATISTICS)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ROWS)
def test_copies_are_independent(name, how):
    source, x = trained(name), data(name)
    duplicate = copy.deepcopy(source) if how == "deepcopy" else pickle.loads(pickle.dumps(source))
    for module in duplicate.modules():
        for owner in getattr(module, "tracked_module_list", []):
            assert any(owner is part for part in duplicate.modules())
    expected = numbers(name, source.eval(), x)
    assert torch.equal(expected, numbers(name, duplicate.eval(), x))
    duplicate.train()
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.mul_(3.0)
    run(name, duplicate, enlarged(x, 5))
    assert torch.equal(expected, numbers(name, source, x))


@pytest.mark.parametrize("name", ROWS)
class TestMetaDevice:
    def test_reaches_everything(self, name):
        layers = [build_as(name, device="meta")]
        with torch.device("meta"):
            layers.append(build(name))
        for layer in layers:
            named = [*layer.named_parameters(), *layer.named_buffers()]
            assert all(tensor.is_meta for _, tensor in named)
            outputs = run(name, layer, data(name, device="meta"))
            assert all(output.device.type == "meta" for output in outputs)

    def test_leaving_it_starts_anew(self, name, empty_memory_is_nan):
        layer = meta(name).to_empty(device="cpu")
        inner = layer.layer if ROWS[name].builder else layer
        if hasattr(inner, "reset_parameters"):
            inner.reset_parameters()
        if name in START_VALUES:
            layer.load_state_dict(build(name).state_dict())
        for _ in range(2):
            assert bool(numbers(name, layer, data(name)).isfinite().all())
            layer.eval()


@pytest.mark.parametrize("name", WEIGHTED)
def test_reset_parameters(name):
    layer, fresh = trained(name), build(name)
    for module in (layer, fresh):
        torch.manual_seed(3)
        module.reset_parameters()
    learned = dict(fresh.weight_quant.named_parameters())
    for key, parameter in layer.weight_quant.named_parameters():
        assert torch.equal(parameter, learned[key])
    if ROWS[name].is_exact:
        torch.manual_seed(3)
        assert torch.equal(layer.weight, build_twin(name).weight)
