"""Types that name a range of numbers, for options of configurations, constructors and protocols.

Every number is finite. Text that spells a number becomes that number, however it is written; truth values and bytes are
refused, and minus zero becomes zero, so that values with the same meaning are equal.
"""

from __future__ import annotations

import re
import typing
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from hardlab.errors import HardlabError


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``. above, below: exclude that end. whole: only integers."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False

    def __str__(self) -> str:
        low, high = (str(end) if self.whole else f"{end:g}" for end in (self.low, self.high))
        noun = "a whole number" if self.whole else "a finite number"
        if not (self.above or self.below):
            return f"{noun} from {low} to {high}"
        return (
            f"{noun} {'above' if self.above else 'of at least'} {low} and {'below' if self.below else 'at most'} {high}"
        )

    def __contains__(self, value: float) -> bool:
        after = value > self.low if self.above else value >= self.low
        before = value < self.high if self.below else value <= self.high
        return after and before

    def __call__(self, value: Any, typed: ValidatorFunctionWrapHandler) -> Any:
        """Validate a value for pydantic; ValueError says what is allowed."""
        try:
            number = typed(spelled(value)) if _may_be_a_number(value) else None
        except (ValidationError, OverflowError):
            number = None
        if number is None or number not in self:
            raise ValueError(f"it must be {self}")
        return number if self.whole else number + 0.0  # turns -0.0 into 0.0


def _may_be_a_number(value: Any) -> bool:
    """False for truth values, also numpy's and torch's, and for bytes, which pydantic would read as text."""
    return not isinstance(value, bool | bytes | bytearray) and "bool" not in str(getattr(value, "dtype", ""))


def spelled(value: Any) -> Any:
    """Text as a command line reads it: ``1e3`` is the whole number 1000, and ``0x10`` is 16."""
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
            return int(text, 16)
        if re.fullmatch(r"[-+]?[0-9.]{1,400}[eE][-+]?[0-9]{1,3}", text):
            with suppress(ValueError):
                return float(text)
    return value


def real(low: float, high: float, above: bool = False, below: bool = False) -> WrapValidator:
    """A range of real numbers for ``Annotated[float, ...]``; above, below as in ``Range``."""
    return WrapValidator(Range(low, high, above, below))


def whole(low: int, high: int) -> WrapValidator:
    """A range of integers for ``Annotated[int, ...]``."""
    return WrapValidator(Range(low, high, whole=True))


Share = Annotated[float, real(0, 1)]
PositiveShare = Annotated[float, real(0, 1, above=True)]
Momentum = Annotated[float, real(0, 1, below=True)]  # also the share of an average, or a probability that leaves some
Weight = Annotated[float, real(0, 1e6)]
Positive = Annotated[float, real(0, 1e6, above=True)]
Strength = Annotated[float, real(0, 10)]  # of a jitter: factors from 1 - s to 1 + s
Rate = Annotated[float, real(0, 1e12, above=True)]  # of learning; what Adam divides it by may be as little as 1e-16
RateOrZero = Annotated[float, real(0, 1e12)]
Shape = Annotated[float, real(1e-3, 1e6)]  # of a beta distribution: less than that is 0 in float32
Decay = Annotated[float, real(0, 100)]
Temperature = Annotated[float, real(1e-3, 1e3)]  # cosines divided by less leave float32's exponentials
Epochs = Annotated[float, real(0, 1e6)]  # and parts of epochs
Inverse = Annotated[float, real(1e-30, 1e30)]  # of a penalty: with it, and with its own inverse, float32 computes
Tolerance = Annotated[float, real(0, 0.1, above=True)]  # of a gradient; above that nothing has converged
Deviation = Annotated[float, real(1e-3, 1e3)]  # of pixels from 0 to 1

Seed = Annotated[int, whole(0, 2**32 - 1)]  # what numpy, scikit-learn and torch all take
Natural = Annotated[int, whole(0, 10**9)]
Count = Annotated[int, whole(1, 10**9)]
Units = Annotated[int, whole(1, 65536)]  # of a layer
Layers = Annotated[int, whole(1, 64)]
Factor = Annotated[int, whole(1, 16)]  # of channels, strides
Pixels = Annotated[int, whole(1, 4096)]  # of a side
Batch = Annotated[int, whole(2, 2**20)]  # norms need two images
Workers = Annotated[int, whole(0, 256)]  # processes that decode images
Few = Annotated[int, whole(1, 64)]  # views of an image, steps of an attack
Many = Annotated[int, whole(1, 65536)]  # scenes, regions, tries: as many as fit in memory
ManyOrNone = Annotated[int, whole(0, 65536)]
PixelsOrNone = Annotated[int, whole(0, 4096)]


def ordered(name: str, value: Any) -> Any:
    """Return the value; HardlabError for a set, whose order differs between processes."""
    if isinstance(value, set | frozenset):
        raise HardlabError(f"{name}={shown(value)}: a set has no order; give a list.")
    return value


def described(annotation: Any) -> str:
    """The values that a type allows, in words, e.g. "a list of a whole number from 1 to 64, or null"."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        ranges = [m.func for m in parts[1:] if isinstance(m, WrapValidator) and isinstance(m.func, Range)]
        return str(ranges[0]) if ranges else described(parts[0])
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a list, each {described(parts[0])}"
    if parts:
        return ", or ".join(map(described, parts))
    return {str: "a name"}.get(annotation, str(annotation))


def reason(error: ValidationError) -> str:
    """Why pydantic refuses a value, as the end of a sentence that says what is allowed."""
    first = error.errors()[0]
    why = first.get("ctx", {}).get("error", first["msg"])
    return str(why)


def fit(what: str, annotation: Any, value: Any) -> Any:
    """Convert a value to its type. HardlabError says ``what`` it is, what is allowed, and the value."""
    try:
        if isinstance(value, set | frozenset):  # its order differs between processes
            raise ValueError(value)
        return adapter(annotation).validate_python(value)
    except ValueError:  # which pydantic's errors are
        raise HardlabError(f"{what} must be {described(annotation)}, not {shown(value)}.") from None


def shown(value: Any) -> str:
    """A value as text for a message: one line, not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # numbers of thousands of digits, and foreign classes
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:90]} ... {text[-20:]}"


def adapter(annotation: Any) -> TypeAdapter[Any]:
    """The pydantic validator of an annotated type."""
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
