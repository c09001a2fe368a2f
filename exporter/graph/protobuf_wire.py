"""Protobuf's wire format, as far as messages are put together without being parsed."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A whole number of at least 0 in base 128, least significant digit first.

    The high bit is set in all digits but the last
    (https://protobuf.dev/programming-guides/encoding/#varints).
    """
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
