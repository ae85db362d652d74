"""What callers give, looked at before the library sees it. Each function returns the value as the library takes it, or
raises RequestError, whose message and `field` name the parameter, and which says what was expected there.

numpy's numbers and arrays of no dimension count as the numbers that they hold; a bool is no number.
"""
from __future__ import annotations

import math
import operator
import os
import reprlib
from typing import Any, NoReturn

import numpy as np

from ._native import RequestError

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
StrPath = str | os.PathLike[str]


def wrong(field: str, value: Any, expected: str) -> NoReturn:
    try:
        shown = reprlib.repr(value)
    except Exception:  # a value may be unable to show itself
        shown = f"this {type(value).__name__}"
    raise RequestError(f"{field}: expected {expected}, not {shown}", field) from None


def integer(field: str, value: Any, least: int = 0, most: int = U32) -> int:
    expected = f"an integer in {least}..{most}"
    if isinstance(value, (bool, np.bool_)):
        wrong(field, value, expected)
    try:
        n = operator.index(value)
    except Exception:
        wrong(field, value, expected)
    return n if least <= n <= most else wrong(field, value, expected)


def number(field: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """Of single precision, which is what the library computes in."""
    expected = ("a finite number" if least == -math.inf else f"a finite number from {least:g} on" if most == math.inf
                else f"a number in {least:g}..{most:g}")
    if isinstance(value, (bool, str, bytes, bytearray, memoryview)) or (
            isinstance(value, (np.generic, np.ndarray)) and (value.ndim or value.dtype.kind not in "iuf")):
        wrong(field, value, expected)
    try:
        wide = float(value)
        with np.errstate(over="ignore", under="ignore"):
            x = float(np.float32(wide))
    except Exception:
        wrong(field, value, expected)
    if not (math.isfinite(x) and least <= x <= most) or (wide and not x):
        wrong(field, value, expected)
    return x


def flag(field: str, value: Any) -> bool:
    return bool(value) if isinstance(value, (bool, np.bool_)) else wrong(field, value, "True or False")


def word(field: str, value: Any, words: list[str]) -> int:
    """Its place among the words."""
    if not isinstance(value, str) or value not in words:
        wrong(field, value, "one of " + ", ".join(words))
    return words.index(value)


def utf8(field: str, value: Any) -> bytes:
    if not isinstance(value, str):
        wrong(field, value, "a text (str)")
    try:
        return value.encode()
    except UnicodeEncodeError as e:
        half = value[e.start]
        raise RequestError(f"{field}: the character at {e.start}, {half!r}, is half of a surrogate pair, which no text "
                           "in UTF-8 has", field) from None


def path(field: str, value: Any) -> str:
    """As it was given, but for its type."""
    try:
        given = os.fsdecode(value)
        os.fsencode(given)
    except (TypeError, UnicodeError):
        wrong(field, value, "a path")
    return given if given and "\0" not in given else wrong(field, value, "a path")


def token_ids(field: str, value: Any, vocab_size: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """[n], where they lie if they are uint32 without gaps."""
    expected = f"a text, or the ids of tokens: integers in 0..{vocab_size - 1}, in one dimension"
    if isinstance(value, (dict, set, frozenset, bytes, bytearray)):  # of the order or of the bytes, nobody means that
        wrong(field, value, expected)
    try:
        given = np.asarray(value)
        if given.ndim != 1 or given.dtype.kind not in "iu" and given.size:
            wrong(field, value, expected)
        if given.size and not 0 <= given.min() <= given.max() < vocab_size:
            wrong(field, value, expected)
        return np.ascontiguousarray(given, np.uint32)
    except RequestError:
        raise
    except Exception:  # ragged lists, and what cannot be made an array
        wrong(field, value, expected)
