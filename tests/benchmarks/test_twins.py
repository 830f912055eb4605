"""A network beside its float twin, in this process and in a worker's."""

from __future__ import annotations

import io
import json

import pytest
import torch
from benchmarks.library import Library, Unsupported, load_library
from benchmarks.twins import FLOAT, QUANTIZED, Case, Twins
from benchmarks.worker import Worker, serve
from torch import nn

from benchmarks import measure, peers, twins
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling

BREVITAS = load_library("brevitas")


def scalings(model):
    found = [m for m in model.modules() if isinstance(m, ParameterFromRuntimeStatsScaling)]
    assert found
    return found


@pytest.mark.parametrize("learned", [False, True])
def test_phases(learned):
    pair = Twins(BREVITAS, Case("MLP", "train", learned=learned))
    assert all(s.collecting is not learned for s in scalings(pair.models[QUANTIZED]))
    named = (dict(model.named_parameters()) for model in pair.models.values())
    ours, reference = named
    assert all(torch.equal(ours[name], weight) for name, weight in reference.items())


@pytest.mark.parametrize("action", ["calibrate", "correct_bias"])
def test_each_calibration_has_a_model_that_has_seen_nothing(action):
    pair = Twins(BREVITAS, Case("MLP", action), batch=4)
    before = pair.models[QUANTIZED][0].bias.clone()
    for _ in range(2):
        assert pair.run(QUANTIZED) > 0 and pair.run(FLOAT) > 0
    assert all(s.collecting for s in scalings(pair.models[QUANTIZED]))
    assert torch.equal(pair.models[QUANTIZED][0].bias, before)


def test_what_has_no_parameters_has_a_gradient_of_its_input():
    pair = Twins(BREVITAS, Case("ReLU", "train"), batch=2)
    for version in (QUANTIZED, FLOAT):
        pair.x.grad = None
        assert pair.run(version) > 0
        assert pair.x.grad is not None and pair.x.grad.shape == (2, 1024)


@pytest.mark.parametrize("action", ["build", "inference"])
def test_small_layers_are_repeated(action, monkeypatch):
    pair, runs = Twins(BREVITAS, Case("linear", action)), []
    monkeypatch.setattr(twins, "seconds", lambda run: runs.append(run()) or 1.0)
    assert pair.run(QUANTIZED) == 1 / 50 and len(runs) == 1


class Bare(Library):
    """A library that can do nothing but build."""

    distribution = "torch"
    has_statistics = False

    def build(self, workload):
        return nn.Linear(64, 64)

    def end_statistics(self, model, x):
        model(x)


@pytest.mark.parametrize(
    "case",
    [
        Case("linear", "train", learned=False),
        Case("linear", "train", jit=True),
        Case("linear", "inference", inference_mode=True),
    ],
)
def test_what_a_library_cannot_do_has_a_reason(case):
    with pytest.raises(Unsupported, match="no "):
        Twins(Bare(), case)
    assert torch.is_grad_enabled()


def asked(worker, *commands):
    lines = "".join(json.dumps({"do": name, "with": given}) + "\n" for name, *given in commands)
    answers = io.StringIO()
    serve(worker, io.StringIO(lines), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_answers_each_command():
    case, wrong = list(Case("linear", "train")), list(Case("none", "train"))
    worker = Worker("brevitas", "")
    commands = (["load"], ["begin", case], ["run", FLOAT], ["operations", FLOAT], ["begin", wrong])
    loaded, begun, ran, counted, failed = asked(worker, *commands)
    assert loaded["value"]["torch"] == torch.__version__ and begun == {"value": None}
    assert ran["value"] > 0
    assert counted["value"] == Twins(BREVITAS, Case("linear", "train")).operations(FLOAT)
    assert failed == {"error": "KeyError: 'none'"}


def test_worker_refuses_this_checkout_as_a_peer():
    (answer,) = asked(Worker("brevitas", str(peers.CHECKOUT)), ["load"])
    assert "expected an installed release" in answer["unsupported"]
    (answer,) = asked(Worker("optimum-quanto", ""), ["load"])
    assert "optimum" in answer["unsupported"]


def test_a_reason_is_an_answer():
    commands = ["load"], ["begin", list(Case("LSTM", "train"))]
    _, answer = asked(Worker("torch-ao-fake-quant", ""), *commands)
    assert answer == {"unsupported": "its recurrent layers are for inference only."}


def test_peers_are_measured_in_turns_in_their_own_processes():
    """This library, and the same interpreter as a peer that offers PyTorch's fake quantization."""
    measured = [peers.OWN, peers.Peer("torch-ao-fake-quant", peers.OWN.python)]
    found = peers.figures(measured, Case("linear", "inference"), "time", threads=1, budget=0.0)
    assert list(found) == measured
    for figure in found.values():
        assert figure["rounds"] == measure.ROUNDS[0]
        # Quantizing is work: the float twin does less.
        assert figure["ms"] > figure["reference_ms"] > 0.0


@pytest.mark.parametrize("text", ["tensorflow=/bin/sh", "brevitas", "brevitas=/no/such/python"])
def test_a_peer_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="--peer"):
        peers.Peer.parsed(text)
