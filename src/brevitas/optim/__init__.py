"""Optimizers beyond those of PyTorch. Layer: optim (L0)."""

from brevitas.optim.cailey_sgd import CaileySGD
from brevitas.optim.sign_sgd import SignSGD

__all__ = ["CaileySGD", "SignSGD"]
