"""Sparsity as it was written, and the whole number of weights that it drops.

``0.1`` means one tenth, not the binary fraction nearest to it: counts are integer arithmetic on
the decimal, so they do not depend on how large the tensor is.
"""

from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from pruning.problems import fail

_LEAST, _DIGITS = Decimal("1e-15"), 20


def parse_sparsity(value: Any, where: str = "sparsity") -> Decimal:
    """A decimal in [0, 1). Floats are taken as they print: 0.1 is 1/10."""
    if not isinstance(value, str | bool | float | int | Decimal) and hasattr(value, "item"):
        value = value.item()  # a scalar of numpy or torch; a float32 is taken as it prints in fp64
    if isinstance(value, bool) or not isinstance(value, str | float | int | Decimal):
        raise fail(where, f"{value!r} is not a number", "write a decimal such as 0.5")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise fail(where, f"{value!r} is not a number", "write a decimal such as 0.5") from None
    if number.is_finite() and 0 < number < _LEAST:
        raise fail(where, f"sparsity {value} drops nothing of any tensor", "write 0, or a larger decimal")
    if len(number.as_tuple().digits) > _DIGITS:
        raise fail(where, f"sparsity {value} has more than {_DIGITS} digits", "write fewer")
    if not (number.is_finite() and 0 <= number < 1):
        hint = f" ({number} % is {number / 100})" if number.is_finite() and 1 <= number < 100 else ""
        raise fail(
            where,
            f"sparsity {value} is outside [0, 1)",
            f"write the fraction to drop as a decimal such as 0.5{hint}",
        )
    # No exponent, no trailing zeros: equal sparsities are equal texts, and so equal file names.
    return Decimal(format(abs(number).normalize(), "f"))


def drop_count(sparsity: "Decimal | Fraction", competing: int) -> int:
    """``round(sparsity * competing)``, exact; a half goes to the even count, as in Python."""
    return round(Fraction(sparsity) * competing)
