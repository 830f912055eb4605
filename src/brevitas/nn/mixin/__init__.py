"""What quantized layers are combined from. Layer: nn (L6)."""

from brevitas.nn.mixin.acc import AccQuantType, QuantClampMixin, TruncMixin
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
    "AccQuantType",
    "ActQuantType",
    "BiasQuantType",
    "QuantBiasMixin",
    "QuantClampMixin",
    "QuantInputMixin",
    "QuantLayerMixin",
    "QuantNonLinearActMixin",
    "QuantOutputMixin",
    "QuantWeightMixin",
    "TruncMixin",
    "WeightQuantType",
]
