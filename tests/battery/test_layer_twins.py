"""What holds for every layer and the float layer that it stands for: values, gradients, weights."""

from __future__ import annotations

import pytest
import torch

from brevitas import config
from brevitas.quant_tensor import plain
from float_twins import (
    assert_computes_nearly_the_same,
    assert_computes_the_same,
    outputs_and_gradient,
)
from layer_rows import ROWS
from layer_variants import EVERY_VARIANT
from layers import build, build_plain, build_twin, data, disabled, numbers, trained

# Their factor and offset are made of four tensors, which get other gradients.
BATCH_NORMS = ("batch_norm1d", "batch_norm2d")
EXACT = [name for name, row in ROWS.items() if row.is_exact]
# Weights that a recurrent layer shares are independent in its twin.
WITH_A_TWIN = [name for name in ROWS if name != "lstm_tied"]
every_row = pytest.mark.parametrize("name", ROWS)
every_exact_row = pytest.mark.parametrize("name", EXACT)


@pytest.mark.parametrize("name", WITH_A_TWIN)
def test_without_quantizers_is_the_float_layer(name):
    factory = {} if ROWS[name].is_exact else {"dtype": torch.float64}
    layer, twin = build_plain(name, **factory), build_twin(name, **factory)
    with config.overrides(IGNORE_MISSING_KEYS=True):
        layer.load_state_dict(twin.state_dict())
    x = plain(data(name, **factory))
    if name in BATCH_NORMS:
        results = [outputs_and_gradient(module, x) for module in (layer, twin)]
        torch.testing.assert_close(*results)
    else:
        assert_twins(name, layer, twin, x)


def assert_twins(name, layer, twin, x):
    row = ROWS[name]
    compare = assert_computes_the_same if row.is_exact else assert_computes_nearly_the_same
    compare(layer, twin, x, row.call)


def twins_of(variant):
    row = ROWS[variant.row]
    dtype = torch.float32 if row.is_exact else torch.float64
    twin = row.twin(**variant.arguments).to(dtype)
    layer = row.layer(**variant.arguments, **row.plain).to(dtype)
    layer.load_state_dict(twin.state_dict())
    x = variant.data(row.kind)
    return layer, twin, x.to(dtype) if x.is_floating_point() else x


@pytest.mark.parametrize("variant", EVERY_VARIANT, ids=str)
# 2026-11: PyTorch says so of its own layer, once a process.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_uncommon_arguments(variant):
    layer, twin, x = twins_of(variant)
    assert_twins(variant.row, layer, twin, x)
    shown = layer.extra_repr()
    assert shown == twin.extra_repr() or not ROWS[variant.row].has_weight
    is_exact = ROWS[variant.row].is_exact
    tolerances = {"rtol": 0.0, "atol": 0.0} if is_exact else {}
    for part in parts(variant, x):
        results = [numbers(variant.row, module, part) for module in (layer, twin)]
        torch.testing.assert_close(*results, **tolerances)


def parts(variant, x):
    """An empty batch, and a sample without a batch where PyTorch takes one."""
    is_sequence = variant.row in ("rnn", "lstm")
    batch = 1 if is_sequence and not variant.arguments.get("batch_first") else 0
    yield x.narrow(batch, 0, 0)
    if not variant.row.startswith("upsample"):
        yield x.select(batch, 0)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", [11, 12])
def test_output_size_of_a_transposed_convolution(dims, size):
    """A size between those that the stride allows, for one call."""
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2}
    row = ROWS[f"convtranspose{dims}d"]
    layer, twin = row.layer(**arguments, **row.plain), row.twin(**arguments)
    layer.load_state_dict(twin.state_dict())
    x = data(f"convtranspose{dims}d")
    for call in (
        lambda module, x: module(x, output_size=[size] * dims),
        lambda module, x: module(x, [size] * dims),
        lambda module, x: module(x),
    ):
        assert_computes_the_same(layer, twin, x, call)


@every_exact_row
def test_seed_gives_the_weights_of_the_twin(name):
    found = []
    for construct in (build, build_plain, build_twin):
        torch.manual_seed(0)
        found.append((dict(construct(name).named_parameters()), torch.rand(2)))
    weights, after = found[-1]
    for parameters, drawn in found[:-1]:
        assert torch.equal(drawn, after)
        assert all(torch.equal(parameters[key], weight) for key, weight in weights.items())


@pytest.mark.parametrize("name", [name for name in EXACT if ROWS[name].has_weight])
def test_derives_from_the_twin(name):
    layer, twin = build(name), ROWS[name].twin
    bases = type(layer).__bases__
    assert bases[-1] is twin and type(layer).__mro__.index(bases[0]) == 1
    assert layer.extra_repr() == build_twin(name).extra_repr()


@pytest.mark.parametrize("name", WITH_A_TWIN)
def test_float_checkpoint_with_disabled_quantizers(name):
    layer, twin, x = trained(name), build_twin(name), plain(data(name))
    with config.overrides(IGNORE_MISSING_KEYS=True):
        layer.load_state_dict(twin.state_dict())
    with disabled(layer.eval()):
        ours, theirs = numbers(name, layer, x), numbers(name, twin.eval(), x)
    if name == "hardtanh":
        assert torch.equal(ours, x.flatten())  # the clamp is the quantizer's own
    elif ROWS[name].is_exact and name != "attention_product":
        assert torch.equal(ours, theirs)
    else:
        # Sums in another order, by float32.
        torch.testing.assert_close(ours, theirs)


@every_row
def test_quantizers_enabled_again_are_as_before(name):
    layer, x = trained(name), data(name)
    before = numbers(name, layer, x)
    with disabled(layer):
        numbers(name, layer, plain(x))
    # Statistics are averaged over batches; the same batch gives the same values.
    assert torch.equal(numbers(name, layer, x), before)
