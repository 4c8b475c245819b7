"""Keys and results of listening tests: what may be in them, and reading them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mss.cli import UsageError

__all__ = ["ResultError", "checked", "read_key", "read_results"]

log = logging.getLogger(__name__)
KEY, FORMAT = "mss-listening-test", "mss-listening-results"
LIMITS = {"participant": 64, "comment": 2000, "started": 40, "finished": 40}  # characters


class ResultError(ValueError):
    """Results that are none of this test; the message says what was expected and what came."""


def checked(data: bytes, key: Mapping) -> dict:
    """The results that a page sent or saved: only what belongs there, of the types and in the ranges it is to have.

    Args:
        data: JSON.
        key: of the test, as `read_key` gives it.

    Raises:
        ResultError: not JSON, results of another test, or an answer that this test cannot have.
    """
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultError(f"expected JSON in UTF-8: {str(error)[:100]}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != 1:
        raise ResultError(f"expected an object of the format {FORMAT}, version 1")
    if found.get("test") != key["id"]:
        raise ResultError(f"these are results of another test: expected {key['id']}, got {_shown(found.get('test'))}")
    clean: dict[str, Any] = {name: found[name] for name in ("format", "version", "test")}
    for name, most in LIMITS.items():
        text = found.get(name)
        if not isinstance(text, str) or len(text) > most or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ResultError(f"{name} must be a text of at most {most} characters")
        clean[name] = text
    if not clean["participant"].strip():
        raise ResultError("participant must not be empty")
    clean["seed"] = _number(found, "seed", 0, 2**32 - 1)
    clean["volume"] = _number(found, "volume", -100, 20)
    answers, trials = found.get("trials"), {trial["id"]: trial for trial in key["trials"]}
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        raise ResultError("trials must be a list of objects")
    names = [one.get("trial") for one in answers]
    if sorted(map(str, names)) != sorted(trials) or not all(isinstance(name, str) for name in names):
        raise ResultError(
            f"expected one answer to each of {len(trials)} trials, got {len(names)}: the session is not complete"
        )
    clean["trials"] = [_answer(one, trials[one["trial"]], key["mode"]) for one in answers]
    return clean


def _answer(one: Mapping, trial: Mapping, mode: str) -> dict:
    """One answer, in the order in which the signals were shown."""
    codes, where = set(trial["signals"]), f"trial {trial['id']}"
    shown = one.get("signals")
    if not isinstance(shown, list) or not all(isinstance(x, str) for x in shown) or sorted(shown) != sorted(codes):
        raise ResultError(f"{where}: signals must be the {len(codes)} of this trial, each once")
    clean = {"trial": trial["id"], "signals": shown, "seconds": _number(one, "seconds", 0, 1e6)}
    if mode == "mushra":
        ratings = one.get("ratings")
        if not isinstance(ratings, dict) or set(ratings) != codes:
            raise ResultError(f"{where}: ratings must have one number for each signal")
        return clean | {"ratings": {code: _number(ratings, code, 0, 100) for code in shown}}
    for name in ("choice", *(["x"] if mode == "abx" else [])):
        if not isinstance(one.get(name), str) or one[name] not in codes:
            raise ResultError(f"{where}: {name} must be one of its signals")
        clean[name] = one[name]
    return clean


def _number(found: Mapping, name: str, least: float, most: float) -> float:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:  # nor NaN
        raise ResultError(f"{name[:40]} must be a number from {least:g} to {most:g}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value of a stranger's in a message."""
    return repr(value)[:40] if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"


def read_key(path: Path) -> dict:
    """The key of a test, test.json, of its folder or by its own name.

    Raises:
        UsageError: it is not there, or is no key.
    """
    path = path / "test.json" if path.is_dir() else path
    try:
        key = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the folder that `build` wrote, or its test.json") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: give the test.json that `build` wrote") from error
    if not isinstance(key, dict) or key.get("format") != KEY or key.get("version") != 1:
        raise UsageError(f"{path} is not the key of a listening test: give the test.json that `build` wrote")
    return key


def read_results(paths: Iterable[Path], key: Mapping) -> tuple[list[dict], dict[str, str]]:
    """Results in files and folders, the last of each participant, in the order of their names; and what was left out, why."""
    latest: dict[str, dict] = {}
    problems: dict[str, str] = {}
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    for file in files:
        try:
            result = checked(file.read_bytes(), key)
        except OSError as error:
            problems[str(file)] = error.strerror or str(error)
        except ResultError as error:
            problems[str(file)] = str(error)
        else:
            before = latest.get(result["participant"])
            if before is not None and before != result:
                log.warning("%r took the test twice: the later results count", result["participant"])
            if before is None or result["finished"] >= before["finished"]:
                latest[result["participant"]] = result
    return [latest[name] for name in sorted(latest)], problems
