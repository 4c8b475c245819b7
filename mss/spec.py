"""spec(obj): an object as a JSON-able dict; build(dict): the object again.

Works because every constructor stores each argument under its own name. The form is Hydra's (`_target_`, `_partial_`), so a
spec is at once a configuration node, a checkpoint header and an equality test. `build` never leaves this package: what
it may name are the classes and functions below, whose construction reads and writes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["SpecError", "build", "spec"]

CLASSES = (
    "mss.separator", "mss.wrappers", "mss.adapters", "mss.combined",
    "mss.transforms", "mss.nets", "mss.classical", "mss.data.augment",
)  # fmt: skip
FUNCTIONS = ("mss.filters", "mss.classical", "mss.phase")


class SpecError(ValueError):
    """A description that names something it may not, or that does not fit what it names."""


def spec(obj: Any) -> Any:
    """Describes an object of this package so that `build` makes an equal one (weights left out).

    Raises:
        SpecError: an object that is not of this package, or a constructor that did not store an argument.
    """
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    if isinstance(obj, dict):
        return {key: spec(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple | nn.ModuleList):
        return [spec(item) for item in obj]
    if inspect.isfunction(obj) or isinstance(obj, functools.partial):
        function, options = options_of(obj)
        return {"_target_": _public_name(function), "_partial_": True, **spec(options)}
    names = [name for name in inspect.signature(type(obj)).parameters if name != "self"]
    missing = [name for name in names if not hasattr(obj, name)]
    if missing:
        raise SpecError(f"{type(obj).__name__} must store its arguments under their own names; not found: {missing}")
    return {"_target_": _public_name(type(obj)), **{name: spec(getattr(obj, name)) for name in names}}


def build(description: Any) -> Any:
    """Makes what `spec` (or a file of conf/separator) describes.

    Raises:
        SpecError: a target outside this package, an unknown one, or arguments that do not fit it.
    """
    if isinstance(description, list):
        return [build(item) for item in description]
    if not isinstance(description, dict):
        return description
    if "_target_" not in description:
        return {key: build(value) for key, value in description.items()}
    target = _resolve(description["_target_"], partial=description.get("_partial_", False))
    arguments = {key: build(value) for key, value in description.items() if key not in ("_target_", "_partial_")}
    try:
        if description.get("_partial_", False):
            inspect.signature(target).bind_partial(**arguments)
            return functools.partial(target, **arguments)
        return target(**arguments)
    except TypeError as error:
        raise SpecError(f"{description['_target_']}: {error}") from error


def options_of(function: Callable) -> tuple[Callable, dict[str, Any]]:
    """A function or partial as the function and all its options: those given, and the defaults of its signature."""
    given: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        if function.args:
            raise SpecError(f"{function} has positional arguments: give them by name")
        function, given = function.func, function.keywords
    defaults = {
        name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty
    }
    return function, defaults | given


def _resolve(path: Any, *, partial: bool) -> Callable:
    """The class (or, for a partial, the function) that a dotted path names, if it is one that may be named."""
    if not isinstance(path, str) or not path.startswith("mss."):
        raise SpecError(
            f"{path!r} is outside of mss and is not built: a description may only name parts of this package"
        )
    obj: Any = importlib.import_module("mss")
    for part in path.split(".")[1:]:
        if part.startswith("_"):
            raise SpecError(f"{path!r} names a private part of mss")
        try:
            obj = getattr(obj, part)
        except AttributeError:
            raise SpecError(f"there is no {path!r} in this version of mss") from None
    home = getattr(obj, "__module__", "") or ""
    if partial and inspect.isfunction(obj) and _within(home, FUNCTIONS):
        return obj
    of_kind = inspect.isclass(obj) and (issubclass(obj, nn.Module) or dataclasses.is_dataclass(obj))
    if not partial and of_kind and _within(home, CLASSES):
        return obj
    raise SpecError(
        f"{path!r} is not a {'filter or estimator function' if partial else 'separator, network or transform'}"
    )


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _public_name(obj: Any) -> str:
    """The shortest dotted path under which the package exports an object."""
    home = obj.__module__
    if not _within(home, CLASSES + FUNCTIONS):
        raise SpecError(f"{home}.{obj.__qualname__} is not part of mss: a checkpoint cannot describe it")
    parts = home.split(".")
    for depth in range(1, len(parts) + 1):
        path = ".".join(parts[:depth])
        if getattr(importlib.import_module(path), obj.__name__, None) is obj:
            return f"{path}.{obj.__name__}"
    raise SpecError(f"{home} does not export {obj.__qualname__}")
