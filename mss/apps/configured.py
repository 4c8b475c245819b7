"""What the verbs that read their options with Hydra share: one run or a sweep, and errors as one line."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mss.cli import USAGE, UsageError, complain
from mss.files import config_folder

__all__ = ["configured"]


class JobError(Exception):
    """A job that ended with another exit code than 0 in a process of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def configured(
    verb: str, argv: Sequence[str], job: Callable[[DictConfig], int], known: Sequence[str], *, search: str | None = None
) -> int:
    """Reads a command line with Hydra and does the job once, or for each of a sweep; returns the worst exit code.

    Args:
        verb: of `python -m mss.<verb>`; the name of its configuration.
        argv: the command line without the program.
        job: (configuration) -> exit code.
        known: the names of the options, for hints.
        search: folder of configuration files to choose from; None: none of ours.
    """
    codes, here = [0], os.getpid()

    def one(config: DictConfig) -> None:
        try:
            code = job(config)
        except UsageError as error:  # the other jobs of a sweep are done all the same
            complain(f"error: {error}")
            code = USAGE
        codes.append(code)
        if code and os.getpid() != here:  # a job of a queue: what it raises is all that comes back from there
            raise JobError(code)

    # overrides behind all flags: between them they would not be found
    argv = sorted(argv, key=lambda argument: "=" in argument and not argument.startswith("-"))
    arguments, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [f"mss.{verb}", *argv], "1"  # else Hydra exits on its own
    try:
        hydra.main(version_base="1.3", config_path=search or "pkg://hydra.conf", config_name=verb)(one)()
    except JobError as error:
        codes.append(error.code)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explained(error, known)) from error
    finally:
        sys.argv = arguments
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
    return max(codes)


def explained(error: Any, known: Sequence[str]) -> str:
    """What Hydra says, in one line, with the option that may have been meant."""
    lines = [line.strip() for e in (error, error.__cause__) if e is not None for line in str(e).splitlines()]
    said = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and "full_key" not in line))
    if match := re.search(r"Could not override '([^']+)'", said):
        key = match[1]
        near = difflib.get_close_matches(key, known, n=1)
        near_hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(k for k in known if '.' not in k)}"
        return f"there is no option {key!r}: {near_hint}"
    if match := re.search(r"Could not find '(\w+)/([^']+)'", said):
        group, choice = match.groups()
        there = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        near = difflib.get_close_matches(choice, there, n=1)
        near_hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}"
        return f"there is no {group} {choice!r}: {near_hint}"
    return said
