"""What is said of a tensor without showing its values. By its own methods, so that this file needs no torch."""

from __future__ import annotations

import math
from typing import Any

_EXACT_BELOW = 1024 * 1024
"""Elements up to which the mean is taken in float64; above that a copy in float64 costs too much memory."""


def summarise(values: Any) -> dict[str, float] | None:
    """Minimum, maximum and mean of the finite values, and the count of the others; None where that has no meaning.

    Cost: some passes and one read from the device.
    """
    try:
        values = _numbers(values)
        if values.is_complex() or not values.numel():
            return None
        x = values.double() if values.numel() < _EXACT_BELOW or not values.is_floating_point() else values.float()
        finite = x.isfinite()
        count = int(finite.sum())
        if not count:
            return {"nonfinite": x.numel()}
        low, high = x.where(finite, math.inf).amin(), x.where(finite, -math.inf).amax()
        total = x.where(finite, 0.0).double().sum() if x.numel() < _EXACT_BELOW else x.where(finite, 0.0).sum()
        return {
            "min": float(low),
            "max": float(high),
            "mean": float(total) / count,
            "nonfinite": x.numel() - count,
        }
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _numbers(tensor: Any) -> Any:
    """The stored numbers of a tensor of any layout."""
    if tensor.is_quantized:
        return tensor.dequantize()
    if str(tensor.layout) == "torch.sparse_coo":
        return tensor._values()  # noqa: SLF001 - the public one refuses uncoalesced tensors
    return tensor if str(tensor.layout) == "torch.strided" else tensor.values()
