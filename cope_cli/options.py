"""One option, one field: a configuration dataclass holds each option's default, help, choices and check.

```python
@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    quality: int = option(4, help="Constant quantiser.", check=between(2, 31), panel=Panel.DATA)

    def __post_init__(self) -> None:
        check_options(self)
```

The command line makes its options from these fields (`cli.options`), and the documents list them. A field's type
decides how a value is read; a `StrEnum` lists the choices. A field without `option` is no option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum, StrEnum
from functools import cache
from typing import Any, get_args, get_type_hints

from cope_cli.errors import UsageError

_KEY = "option"


class Panel(StrEnum):
    """Groups of options in the help."""

    DATA = "Data"
    MODEL = "Model"
    ANSWER = "Answer"
    OPTIMISATION = "Optimisation"
    DISTRIBUTED = "Distributed"
    OUTPUT = "Output"


class Dtype(StrEnum):
    """Number format of weights or of the computation; each command says what `auto` means."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Check:
    """A condition on a value, and its description after the word `expected`."""

    is_good: Callable[[Any], bool]
    expected: str


def between(low: float, high: float, unit: str = "") -> Check:
    """Accept `low` to `high`, both included."""
    return Check(lambda value: low <= value <= high, f"{low} to {high} {unit}".strip())


def at_least(low: int) -> Check:
    """Accept `low` and above."""
    return Check(lambda value: value >= low, f"{low} or more" if low == 0 else f"at least {low}")


def is_device(text: str) -> bool:
    """Return whether a text names a device: auto, cpu, cuda, or cuda:N."""
    return re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is not None


#: `auto` takes a GPU if there is one.
DEVICE = Check(is_device, "auto, cpu, cuda or cuda:N")


def above(low: float) -> Check:
    """Accept values above `low`."""
    return Check(lambda value: value > low, f"above {low:g}")


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the command line needs to know about a field; see `option`."""

    help: str
    panel: Panel
    flag: str
    short: str
    check: Check | None
    parse: Callable[[Any], Mapping[str, Any]] | None
    text_type: Any
    text_default: Any


def option(
    default: Any = MISSING,
    *,
    help: str,
    panel: Panel,
    flag: str = "",
    short: str = "",
    check: Check | None = None,
    parse: Callable[[Any], Mapping[str, Any]] | None = None,
    text_type: Any = str,
    text_default: Any = None,
) -> Any:
    """Return a dataclass field that is an option too.

    Args:
        default: the field's default; without one the option is required.
        help: what the option does, and what happens without it if the default does not say so.
        panel: the group it is listed in.
        flag: its name, such as `--gop`; the default is the field's name.
        short: a one-letter name, such as `-j`.
        check: a condition that every value but None must meet.
        parse: makes field values, by name, of what the command line was given, where that is not this field's value.
        text_type: the type of what `parse` reads.
        text_default: what `parse` reads without the option.
    """
    about = Option(
        help=help,
        panel=panel,
        flag=flag,
        short=short,
        check=check,
        parse=parse,
        text_type=text_type,
        text_default=text_default,
    )
    return field(default=default, metadata={_KEY: about})


def redefault(config: type, name: str, default: Any, **changes: Any) -> Any:
    """Return the option of a base class with another default, and other words if `changes` has any."""
    about = option_of(next(one for one in fields(config) if one.name == name))
    assert about is not None
    return option(default, **(vars(about) | changes))


def options_of(config: type) -> dict[str, tuple[Field[Any], Option]]:
    """Return a dataclass's options by field name, in order of declaration."""
    return {one.name: (one, about) for one in fields(config) if (about := option_of(one)) is not None}


def option_of(one: Field[Any]) -> Option | None:
    """Return the option of a field, or None."""
    return one.metadata.get(_KEY)


def flag_of(one: Field[Any]) -> str:
    """Return a field's flag, such as `--gop`; of a pair such as `--direct/--reencode` the first."""
    about = option_of(one)
    return (about.flag if about else "").split("/")[0] or f"--{one.name.replace('_', '-')}"


def check_options(config: Any) -> None:
    """Check every option of a configuration that is not None.

    Raises:
        UsageError: a value is no choice or does not meet its check; names the flag, the value and what is expected.
    """
    choices = _choices(type(config))  # type: ignore[arg-type]  # classes are hashable
    for one, about in options_of(type(config)).values():
        value = getattr(config, one.name)
        if value is None:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            allowed = choices.get(one.name)
            if allowed is not None and part not in [choice.value for choice in allowed]:
                names = [str(choice.value) for choice in allowed]
                raise UsageError(f"{flag_of(one)} {part}: expected {', '.join(names[:-1])} or {names[-1]}")
            if about.check is not None and not about.check.is_good(part):
                raise UsageError(f"{flag_of(one)} {part}: expected {about.check.expected}")


@cache
def _choices(config: type) -> dict[str, type[Enum]]:
    """Return the enumerations that a dataclass's fields choose from, by field name."""
    found = {}
    for name, hint in get_type_hints(config).items():
        for one in (hint, *get_args(hint)):
            if isinstance(one, type) and issubclass(one, Enum):
                found[name] = one
    return found
