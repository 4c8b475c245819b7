"""What configurations name: optimizers, schedules, losses."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

__all__ = ["chosen"]


def chosen(kind: str, name: str, known: Mapping[str, Callable], options: Iterable[str], *, given: int = 0) -> Callable:
    """What a name stands for, if it takes these options.

    Args:
        kind: of thing, for messages.
        name: of one of them.
        known: all of them.
        options: names of arguments.
        given: how many arguments come first that are no options.

    Raises:
        ValueError: it is not known, or does not take them; says what there is.
    """
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"there is no {kind} {name!r}: {hint}")
    taken = [*inspect.signature(known[name]).parameters][given:]
    if wrong := [option for option in options if option not in taken]:
        raise ValueError(
            f"the {kind} {name} has no option {wrong[0]!r}: it has {', '.join(sorted(taken)) or 'none at all'}"
        )
    return known[name]
