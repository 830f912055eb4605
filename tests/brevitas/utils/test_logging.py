"""The library's logger, and notes of the bits of a running model."""

from __future__ import annotations

import logging
import uuid

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.quant import Int8ActPerTensorFloat
from brevitas.utils.logging import LogActivationBitWidth, LogWeightBitWidth, setup_logger


@pytest.fixture
def name():
    name = f"brevitas.{uuid.uuid4()}"
    yield name
    logging.getLogger(name).handlers.clear()


def test_the_level_is_that_of_the_configuration(name, capsys):
    for level in ("CRITICAL", "INFO", "WARNING"):
        with config.overrides(LOGGING_LEVEL=level):
            logger = setup_logger(name)
        assert logger.level == logging.getLevelName(level) and len(logger.handlers) == 1


def test_lines_go_to_the_error_stream_once(name, capsys):
    with config.overrides(LOGGING_LEVEL="INFO"):
        logger = setup_logger(name)
        assert setup_logger(name) is logger
    logger.info("seven layers skipped")
    logger.debug("not shown")
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.endswith(f" - {name} - INFO - seven layers skipped\n")
    assert not logger.propagate


def test_nothing_is_shown_by_default(name, capsys):
    setup_logger(name).error("not shown")
    assert capsys.readouterr().err == ""


def model():
    layer = qnn.QuantLinear(
        4,
        3,
        weight_bit_width=5,
        weight_bit_width_impl_type="parameter",
        input_quant=Int8ActPerTensorFloat,
        input_bit_width=6,
    )
    return nn.Sequential(layer, qnn.QuantReLU(bit_width=3), qnn.QuantIdentity(act_quant=None))


def test_bits_of_weights_and_activations():
    network = model()
    weights, activations = LogWeightBitWidth(network), LogActivationBitWidth(network)
    assert weights.bit_width_dict == activations.bit_width_dict == {}
    network(torch.randn(2, 4))
    assert weights.bit_width_dict == {"0.weight_quant": 5}
    assert activations.bit_width_dict == {"0.input_quant": 6, "1.act_quant": 3}
    assert not weights.bit_width_dict["0.weight_quant"].requires_grad


def test_the_last_run_counts():
    network = model()
    log = LogWeightBitWidth(network)
    network(torch.randn(2, 4))
    part = network[0].weight_quant.tensor_quant.msb_clamp_bit_width_impl
    with torch.no_grad():
        part.bit_width_offset -= 1
    assert log.bit_width_dict["0.weight_quant"] == 5
    network(torch.randn(2, 4))
    assert log.bit_width_dict["0.weight_quant"] == 4
    log.remove_hooks()
    with torch.no_grad():
        part.bit_width_offset -= 1
    network(torch.randn(2, 4))
    assert log.bit_width_dict["0.weight_quant"] == 4
    assert not any(module._forward_hooks for module in network.modules())
