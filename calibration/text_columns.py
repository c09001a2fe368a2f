"""Which columns of a row, or fields of a JSON object, are its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.calibration_error import CalibrationError

_PAIR = "text_pair"


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a text, of the other text of a pair, and of a list of choices.

    Where the pair's is the usual one, `pair` is read as well.
    """

    text: str = "text"
    pair: str = _PAIR
    choices: str = "choices"


COLUMNS = Columns()


def row_texts(
    values: Mapping[str, object], columns: Columns = COLUMNS
) -> tuple[str, tuple[str, ...]]:
    """The text of a row, and the other text of its pair or its choices, where it has them.

    Raises:
        CalibrationError: the text is missing, or something is no text; the message names it.
    """
    text, pair, choices = (values.get(n) for n in (columns.text, columns.pair, columns.choices))
    if not isinstance(text, str):
        raise CalibrationError(f'"{columns.text}" is {text!r}; expected a text')
    if pair is None and columns.pair == _PAIR:
        pair = values.get("pair")
    if pair is not None and not isinstance(pair, str):
        raise CalibrationError(f"the pair is {pair!r}; expected a text")
    if choices is None:
        return text, (pair,) if pair else ()
    texts = choices if isinstance(choices, list) else [None]
    if not all(isinstance(item, str) and item.strip() for item in texts):
        raise CalibrationError(f'"{columns.choices}" is {choices!r}; expected a list of texts')
    if pair:
        raise CalibrationError(f'both a pair and "{columns.choices}"; leave one out')
    return text, tuple(texts)
