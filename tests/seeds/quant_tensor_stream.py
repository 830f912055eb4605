"""The random stream of the two notebooks about QuantTensor, wound forward to one of their cells.

Each notebook draws all its weights and inputs from one stream. A test that starts at its cell
stands alone, and shows the cell as the tutorial has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

Draw = Callable[[], object]

_image: Draw = partial(torch.randn, 1, 2, 5, 5)
_activation: Draw = partial(torch.randn, 1, 3, 4, 4)
_integers: Draw = partial(torch.randint, -128, 127, (1, 2, 5, 5))
_conv: Draw = partial(nn.Conv2d, 2, 3, 3, bias=False)
_conv_with_bias: Draw = partial(nn.Conv2d, 2, 3, 3)

# Cell of the 0.11 notebook -> what it draws. A quantized layer draws what its float layer draws
# (S1-06). Cell 5 seeds the stream once more.
_DRAWS: dict[int, tuple[Draw, ...]] = {
    5: (_conv, _image),
    9: (_image, _image),
    12: (_activation,),
    14: (_conv, _image),
    16: (_integers,),
    18: (_conv,),
    21: (_conv, _image),
    23: (_conv_with_bias, _image),
    25: (_conv_with_bias, _image),
    27: (_conv_with_bias, _image),
    28: (_conv_with_bias, _image),
    29: (_conv_with_bias, _image),
    31: (_conv_with_bias, _image),
}

# The 0.7 notebook was not run in one go: its cells 108 to 127 are the cells 12 to 31 of the
# other. How many numbers were drawn before was found from the numbers that it prints.
_OFFSET_0_7 = 108 - 12
_DRAWN_BEFORE_0_7 = {10: 252, 108: 220}


def wind_to_cell(cell: int) -> None:
    """Seed the stream and draw what the 0.11 notebook draws before a cell."""
    torch.manual_seed(0)
    for earlier, draws in _DRAWS.items():
        if cell > 5 and earlier < cell:
            _draw(draws)


def wind_to_cell_0_7(cell: int) -> None:
    """Seed the stream and draw what the 0.7 notebook draws before a cell, 10 or 108 to 127."""
    start = 108 if cell >= 108 else 10
    torch.manual_seed(0)
    torch.rand(_DRAWN_BEFORE_0_7[start])
    for earlier, draws in _DRAWS.items():
        if start <= earlier + _OFFSET_0_7 < cell:
            _draw(draws)


def _draw(draws: tuple[Draw, ...]) -> None:
    for draw in draws:
        draw()
