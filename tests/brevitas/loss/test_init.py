"""The package offers its losses by name."""

from __future__ import annotations

from brevitas import loss
from brevitas.loss import weighted_bit_width


def test_names():
    assert loss.MEGA == 10e6
    for name in loss.__all__:
        assert getattr(loss, name) is getattr(weighted_bit_width, name)
