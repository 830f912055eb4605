"""Layers whose input is scaled or rotated before they see it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.common import ExportMixin, LayerProtocol
from brevitas.export import export_onnx_qcdq
from brevitas.function.hadamard import hadamard_factor, hadamard_transform
from brevitas.nn import equalized_layer
from brevitas.nn.equalized_layer import EqualizedModule, RotatedModule, functional_rotate_input
from brevitas.quant_tensor import IntQuantTensor
from export_runtime import run_onnxruntime
from quant_tensors import make


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Double(nn.Module):
    def forward(self, x):
        return x * 2


class Second(nn.Module):
    def forward(self, mask, hidden_states=5.0, *, other=1.0):
        return mask, hidden_states, other


class Both(nn.Module):
    def forward(self, input, x):
        return input, x


class AnyArguments(nn.Module):
    def forward(self, *args, **kwargs):
        return (*args, *kwargs.values())


class OnlyKeyword(nn.Module):
    def forward(self, mask, *, x):
        return mask, x


CALLS = [
    (Second, (1.0, 10.0), {}, (1.0, 20.0, 1.0)),
    (Second, (1.0,), {"other": 3.0, "hidden_states": 10.0}, (1.0, 20.0, 3.0)),
    (Second, (), {"mask": 1.0}, (1.0, 5.0, 1.0)),
    (Both, (1.0, 10.0), {}, (2.0, 10.0)),
    (Both, (), {"x": 10.0, "input": 1.0}, (2.0, 10.0)),
    (AnyArguments, (1.0, 10.0), {"x": 100.0}, (2.0, 10.0, 100.0)),
    (AnyArguments, (), {"mask": 1.0, "x": 10.0}, (1.0, 20.0)),
    (OnlyKeyword, (1.0,), {"x": 10.0}, (1.0, 20.0)),
]


@pytest.mark.parametrize("layer, args, kwargs, expected", CALLS)
def test_scales_the_first_argument_with_a_known_name(layer, args, kwargs, expected):
    assert EqualizedModule(Double(), layer())(*args, **kwargs) == expected


ATTENTION = [
    lambda: nn.MultiheadAttention(4, 2),
    lambda: qnn.QuantMultiheadAttention(4, 2),
    lambda: qnn.QuantMultiheadAttention(4, 2, packed_in_proj=False),
]


@pytest.mark.parametrize("make_layer", ATTENTION)
@pytest.mark.parametrize("shared", [True, False])
def test_attention_takes_three_inputs(make_layer, shared):
    layer = make_layer().eval()
    query = random(3, 2, 4)
    key, value = (query, query) if shared else (query + 1, query - 1)
    scaled, turned = EqualizedModule(Double(), layer), RotatedModule(layer)
    for wrapped, change in ((scaled, Double()), (turned, functional_rotate_input)):
        new = change(query)
        rest = (new, new) if shared else (change(key), change(value))
        expected, _ = layer(new, *rest)
        assert torch.equal(wrapped(query, key=key, value=value)[0], expected)
    assert torch.equal(
        scaled(query, key, value)[0], layer(*(2 * x for x in (query, key, value)))[0]
    )


def test_a_layer_is_looked_at_when_it_is_called():
    """Quantizing a model replaces layers by others, whose argument has another name."""
    module = EqualizedModule(Double(), Both())
    module.layer = Second()
    assert module(1.0, 10.0) == (1.0, 20.0, 1.0)


def test_equalized_module_is_a_layer():
    module = EqualizedModule(qnn.ScaleBias(4, bias=False), nn.Linear(4, 2))
    assert isinstance(module, LayerProtocol) and isinstance(module, ExportMixin)
    assert list(module.state_dict()) == ["scale.weight", "layer.weight", "layer.bias"]
    assert not module.requires_export_handler
    with pytest.raises(RuntimeError, match="Can't enter export mode during training"):
        module.export_mode = True


@pytest.mark.parametrize("size", [8, 24])
def test_rotation_of_a_layer_is_undone_in_its_weight(size):
    layer, x = nn.Linear(size, 3), random(5, size)
    expected = layer(x)
    layer.weight.data = functional_rotate_input(layer.weight.data)  # W @ H.T
    # Two rotations and a sum of `size` terms, each rounded.
    torch.testing.assert_close(RotatedModule(layer)(x), expected, atol=1e-5, rtol=1e-5)


def test_rotate_input():
    x = random(2, 3, 24)
    rotated = functional_rotate_input(x)
    assert torch.equal(rotated, hadamard_transform(x))
    torch.testing.assert_close(hadamard_transform(rotated, transpose=True), x, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="size=7"):
        functional_rotate_input(x[..., :7])


def test_rotate_transposed_input():
    """The vectors are columns, before and after; products with rotated rows stay."""
    keys = random(2, 24, 5)
    rotated = functional_rotate_input(keys, transpose=True)
    assert torch.equal(rotated, functional_rotate_input(keys.mT.contiguous()).mT)
    queries = random(2, 3, 24)
    torch.testing.assert_close(
        functional_rotate_input(queries) @ rotated, queries @ keys, atol=1e-4, rtol=0
    )


def test_quantized_inputs_are_rotated_by_value():
    x, _ = make((2, 8), 0.5, bit_width=8)
    assert type(functional_rotate_input(x)) is torch.Tensor
    module = RotatedModule(qnn.QuantIdentity(return_quant_tensor=True))
    assert torch.equal(module.rotation_forward(x), functional_rotate_input(x.value))
    assert type(module(x)) is IntQuantTensor
    same = EqualizedModule(qnn.QuantIdentity(return_quant_tensor=True), nn.Identity())
    assert type(same(x)) is IntQuantTensor


def test_matrix_of_ones_own():
    matrix, x = hadamard_factor(12), random(2, 24)
    module = RotatedModule(nn.Identity(), matrix, 12)
    assert list(module.state_dict()) == ["had_mat"] and module.k == 12
    assert RotatedModule(nn.Identity(), None, 1).had_mat is None
    assert torch.equal(module(x), functional_rotate_input(x))
    flipped = RotatedModule(nn.Identity(), -matrix)
    assert torch.equal(flipped(x), -module(x))
    flipped.load_state_dict(module.state_dict())
    assert torch.equal(flipped(x), module(x))
    assert module.half().had_mat.dtype == torch.float16 and matrix.dtype == torch.float32


@pytest.mark.parametrize("size, step, larger", [(5, 1, 12), (8, 2, 20), (12, 1, 20)])
def test_expanded_input(size, step, larger):
    x = random(2, size)
    module = RotatedModule(nn.Linear(larger, 3), expand_input=True, expansion_step=step)
    expected = functional_rotate_input(torch.cat([x, torch.zeros(2, larger - size)], dim=1))
    assert torch.equal(module.rotation_forward(x), expected)
    assert torch.equal(module(x), module.layer(expected))


@pytest.mark.parametrize("hidden_dim", [2, 4, 12, 24])
def test_blocks_of_features(hidden_dim):
    x = random(2, 3, 24)
    module = RotatedModule(nn.Identity(), hidden_dim=hidden_dim)
    blocks = [functional_rotate_input(block) for block in x.split(hidden_dim, dim=-1)]
    torch.testing.assert_close(module(x), torch.cat(blocks, dim=-1))
    with pytest.raises(ValueError, match=f"hidden_dim={hidden_dim}: expected a multiple"):
        module(x[..., :23])


def modules():
    return (
        EqualizedModule(
            qnn.ScaleBias(12, bias=False, runtime_shape=(1, -1)), qnn.QuantLinear(12, 4)
        ),
        RotatedModule(qnn.QuantLinear(12, 4), hadamard_factor(12)),
        RotatedModule(qnn.QuantLinear(4, 4), hidden_dim=4),
    )


@pytest.mark.parametrize("index", range(3))
def test_compiles_exports_and_copies(index):
    module, x = modules()[index].eval(), random(3, 12 if index < 2 else 4)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (x,)).module()
    copies = (copy.deepcopy(module), pickle.loads(pickle.dumps(module)))
    for other in (compiled, exported, *copies):
        torch.testing.assert_close(other(x), expected)
    other = modules()[index].eval()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x), expected)
    torch._dynamo.reset()


def test_export_to_onnx():
    """A rotation is products with constants; a scaling whatever its module is."""
    model = nn.Sequential(
        EqualizedModule(nn.ReLU(), qnn.QuantLinear(8, 12)), RotatedModule(qnn.QuantLinear(12, 4))
    ).eval()
    x = random(2, 8)
    graph = export_onnx_qcdq(model, x)
    torch.testing.assert_close(run_onnxruntime(graph, x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_kernel_of_the_optional_package(monkeypatch):
    calls = []

    class OnGpu(torch.Tensor):
        is_cuda = True

    def kernel(x, scale):
        calls.append((tuple(x.shape), scale))
        return x

    monkeypatch.setattr(equalized_layer, "fast_hadamard_transform", kernel)
    functional_rotate_input(random(2, 16))
    functional_rotate_input(random(2, 12).as_subclass(OnGpu))
    assert calls == []
    functional_rotate_input(random(2, 16).as_subclass(OnGpu))
    assert calls == [((2, 16), 0.25)]


CONSTRUCTION_ERRORS = [
    (lambda: EqualizedModule(None, nn.Identity()), TypeError, "scale_module=None: expected"),
    (lambda: EqualizedModule(Double(), None), TypeError, "layer=None: expected"),
    (lambda: RotatedModule(3), TypeError, "layer=3: expected"),
    (lambda: RotatedModule(Double(), "a"), TypeError, "had_mat='a': expected a tensor"),
    (lambda: RotatedModule(Double(), torch.eye(3)[:2]), ValueError, r"shape \(2, 3\)"),
    (lambda: RotatedModule(Double(), torch.eye(3), 12), ValueError, r"shape \(3, 3\), k=12"),
    (lambda: RotatedModule(Double(), torch.ones(2, 2)), ValueError, "not orthogonal"),
    (lambda: RotatedModule(Double(), torch.zeros(2, 2)), ValueError, "not orthogonal"),
    (lambda: RotatedModule(Double(), None, 12), ValueError, "k=12 without had_mat"),
    (lambda: RotatedModule(Double(), expansion_step=0), ValueError, "expansion_step=0"),
    (lambda: RotatedModule(Double(), hidden_dim=0), ValueError, "hidden_dim=0"),
]


@pytest.mark.parametrize("build, error, message", CONSTRUCTION_ERRORS)
def test_construction_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_layer_without_an_input():
    class NoInput(nn.Module):
        def forward(self, y):
            return y

    with pytest.raises(ValueError, match=r"NoInput.forward\(y\): expected an argument named input"):
        EqualizedModule(Double(), NoInput())
