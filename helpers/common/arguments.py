"""Checks of arguments: one line that names the value and says what is wanted."""

from collections.abc import Iterable
from typing import Any


def require(fits: Any, name: str, value: object, wanted: str) -> None:
    """Raise a ValueError that names an argument's value and what is wanted, unless it fits."""
    if not fits:
        raise ValueError(f"{name} is {value!r}; {wanted}")


def require_choice(name: str, value: object, choices: Iterable) -> None:
    """Raise a ValueError that lists the choices, unless the value is one of them."""
    listed = [str(choice) for choice in choices]
    if value not in listed:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(listed)}")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An argument that counts something; a float will do if it is a whole number.

    Raises:
        ValueError: it is none, or below `least`.
    """
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = least - 1
    require(
        least <= whole == value and not isinstance(value, bool),
        name,
        value,
        f"give a whole number of {least} or more",
    )
    return whole
