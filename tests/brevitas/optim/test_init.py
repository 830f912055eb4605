"""The package offers its optimizers by name."""

from __future__ import annotations

import brevitas
from brevitas import optim
from brevitas.optim.cailey_sgd import CaileySGD
from brevitas.optim.sign_sgd import SignSGD


def test_names():
    assert brevitas.optim is optim
    assert (optim.CaileySGD, optim.SignSGD) == (CaileySGD, SignSGD)
