"""A budget as people write it: 8/255."""

from __future__ import annotations

from fractions import Fraction


def epsilon_text(epsilon: float | None) -> str:
    """0.03137 -> "8/255", 0.5 -> "0.5"; a dash where there is none (None or NaN)."""
    if epsilon is None or epsilon != epsilon:
        return "–"
    levels = round(255 * epsilon)
    if round(epsilon, 2) == epsilon or not levels or abs(255 * epsilon - levels) > 0.01:
        return f"{epsilon:.4g}"
    return f"{levels}/255"


def parse_epsilon(text: str) -> float | None:
    """The number behind "8/255" or "0.5", None where the source does not state one ("not_stated")."""
    try:
        return None if text == "not_stated" else float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"Expected a number or a fraction such as 8/255, got {text!r}.") from error
