"""Compatibility path of the predefined quantizers. Layer: quant (L5)."""

from brevitas.quant.base import *  # noqa: F403
from brevitas.quant.scaled_int import *  # noqa: F403
