"""Numbers with nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with a noun, such as `1 layer`, `1,024 layers` or `2 classes`.

    Args:
        number: The number.
        noun: The noun in the singular.
        plural: The noun in the plural. Default: the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
