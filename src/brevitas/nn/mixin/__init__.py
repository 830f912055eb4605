"""What quantized layers are combined from. Layer: nn (L6)."""

from brevitas.nn.mixin.act import (
    ActQuantType,
    QuantInputMixin,
    QuantNonLinearActMixin,
    QuantOutputMixin,
)
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.nn.mixin.parameter import (
    BiasQuantType,
    QuantBiasMixin,
    QuantWeightMixin,
    WeightQuantType,
)

__all__ = [
    "ActQuantType",
    "BiasQuantType",
    "QuantBiasMixin",
    "QuantInputMixin",
    "QuantLayerMixin",
    "QuantNonLinearActMixin",
    "QuantOutputMixin",
    "QuantWeightMixin",
    "WeightQuantType",
]
