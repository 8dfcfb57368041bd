"""How numbers, sizes and times are written for people."""

from __future__ import annotations

import math
from typing import Any


def number_text(value: Any) -> str:
    """Four significant digits, thousands with commas; NaN, ∞ and −∞ by name; an em dash for nothing."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "true" if value else "false"
    x = float(value)
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    if x == int(x) and abs(x) < 1e7:
        return _minus(f"{int(x):,}")
    if 1e-3 <= abs(x) < 1e6:
        text = f"{x:,.{max(0, 3 - math.floor(math.log10(abs(x))))}f}"
        return _minus(text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa, exponent = f"{x:.2e}".split("e")
    return _minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def bytes_text(count: int) -> str:
    """`812 B`, `3.4 KiB`, `61 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def shape_text(shape: Any) -> str:
    """`16 × 8 × 128`; `scalar` for no dimensions."""
    return " × ".join(str(n) for n in shape) if shape else "scalar"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_bad(value: Any) -> bool:
    """Whether a JSON number, or the string that stands for one, is not finite."""
    try:
        return not math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _minus(text: str) -> str:
    return f"−{text[1:]}" if text.startswith("-") else text
