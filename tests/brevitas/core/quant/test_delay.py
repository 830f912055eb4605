"""A delay passes the real value through for a number of training steps."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.quant.delay import DelayWrapper

X, Y = torch.tensor([0.3]), torch.tensor([0.0])


@pytest.mark.parametrize("steps", [None, 0])
def test_no_delay(steps: int | None) -> None:
    delay = DelayWrapper(steps)
    assert not delay.is_active and delay(X, Y) is Y


def test_real_values_for_the_first_steps() -> None:
    delay = DelayWrapper(3)
    assert [delay(X, Y) is X for _ in range(5)] == [True, True, True, False, False]
    assert not delay.is_active


def test_evaluation_does_not_count() -> None:
    delay = DelayWrapper(1).eval()
    assert delay(X, Y) is X and delay(X, Y) is X and delay.is_active
    delay.train()
    assert delay(X, Y) is X and delay(X, Y) is Y


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3"])
def test_wrong_number_of_steps(steps: object) -> None:
    with pytest.raises(ValueError, match=r"quant_delay_steps=.*int >= 0 or None"):
        DelayWrapper(steps)
