"""The shared library, as its own header declares it, and its errors as exceptions.

`lib/deq.cdef` is deq.h after the preprocessor: nothing of it is written a second time in Python, so no struct can be
laid out otherwise here than there. The library and the `deq` program stand beside it.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cffi import FFI

HOME = Path(__file__).parent / "lib"
PROGRAM = HOME / "deq"

ffi: Any = FFI()  # whose cdata have the members of C structs, which no checker of types knows
ffi.cdef((HOME / "deq.cdef").read_text())
try:
    lib: Any = ffi.dlopen(str(HOME / "libdeq.so"))
except OSError as e:
    raise ImportError(f"{e}. libdeq needs the shared libraries jansson, yaml and unistring; on Debian: apt-get install "
                      "libjansson4 libyaml-0-2 libunistring2") from None
# cffi looks a name up when it is first used, behind a lock that is not reentrant: a destructor, which may run in the
# midst of that, would wait for itself
for _name in dir(lib):
    getattr(lib, _name)


class Error(Exception):
    """What the library refused or could not do; `code` is its name there, such as "DEQ_EINVAL"."""

    code = "DEQ_EINVAL"


class RequestError(Error, ValueError):
    """The caller's argument is wrong; `field` names it where one can be named."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        match = re.match(r"([a-z_]+)(: | of | \d)", message)
        self.field = field or (match.group(1) if match else None)


class FormatError(Error, ValueError):
    """A file is damaged, or not what it should be."""

    code = "DEQ_EFORMAT"


class NotFound(Error, FileNotFoundError):
    """There is no such model directory or file."""

    code = "DEQ_ENOTFOUND"


class SystemRefused(Error, OSError):
    """The system refused a read, a write, a rename."""

    code = "DEQ_EIO"


class NoMemory(Error, MemoryError):
    """An allocation failed."""

    code = "DEQ_ENOMEM"


class Full(Error):
    """There is no room for another request now."""

    code = "DEQ_EFULL"


class NumericError(Error, ArithmeticError):
    """The solver met values that are not finite."""

    code = "DEQ_ENUMERIC"


_KINDS: dict[int, type[Error]] = {
    lib.DEQ_ENOMEM: NoMemory,
    lib.DEQ_EINVAL: RequestError,
    lib.DEQ_EFORMAT: FormatError,
    lib.DEQ_EIO: SystemRefused,
    lib.DEQ_EFULL: Full,
    lib.DEQ_ENUMERIC: NumericError,
    lib.DEQ_ENOTFOUND: NotFound,
}


_KEYWORDS = {"bias": "logit_bias", "cache": "cache_bytes", "stop": "stop_rule"}
"""Members of the library's structs that have another name here."""


def text(chars: Any) -> str:
    """A C string, of which the library promises UTF-8."""
    return str(ffi.string(chars), "utf-8", "replace")


def new_error() -> Any:
    return ffi.new("struct deq_err *")


def check(code: int, error: Any) -> None:
    """Raises what a function of the library returned, unless that is DEQ_OK."""
    if code:
        message = text(error.text)
        field = re.match(r"[a-z_]*", message)
        if code == lib.DEQ_EINVAL and field and field[0] in _KEYWORDS:
            message = _KEYWORDS[field[0]] + message[field.end():]
        raise _KINDS.get(code, Error)(message)


def names(name_of: Any, count: int) -> list[str]:
    """The words of one of the library's enums, in its order."""
    return [text(name_of(i)) for i in range(count)]
