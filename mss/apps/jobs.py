"""Which files to separate and where their stems go; nothing is read or written here, and torch is not needed."""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mss.cli import UsageError

__all__ = ["FIELDS", "Job", "check_template", "find_inputs", "plan"]

FIELDS = ("model", "track", "stem", "ext", "parent")


@dataclass(frozen=True)
class Job:
    """One input and the file, somewhere below `root`, that each of its stems goes to."""

    source: Path
    root: Path
    outputs: dict[str, Path]

    @property
    def done(self) -> bool:
        """Whether all outputs are there; a file is there only if it is complete."""
        return all(path.is_file() for path in self.outputs.values())


def find_inputs(names: Iterable[str], extensions: Iterable[str]) -> tuple[list[Path], dict[str, str]]:
    """The audio files that files, folders (with all below them) and glob patterns stand for, in a stable order.

    Returns:
        files: each once.
        problems: name -> why nothing was found under it.
    """
    extensions = tuple(extensions)
    found: dict[Path, Path] = {}  # resolved path: path as given
    problems: dict[str, str] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = (
                p
                for p in path.rglob("*")
                if p.suffix.lower() in extensions and not p.name.startswith(".") and p.is_file()
            )
            paths, problem = sorted(inside), f"{name}: a folder without audio files"
        elif path.exists() or not glob.has_magic(name):
            paths, problem = [path], ""  # a missing file is reported when it is opened, like one that is no audio
        else:
            paths = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).is_file())
            problem = f"{name}: no file matches this pattern"
        if not paths:
            problems[name] = problem
        for p in paths:
            found.setdefault(p.resolve(), p)
    return list(found.values()), problems


def check_template(template: str) -> None:
    """Refuses a template of file names that cannot be filled in, or that would give all stems one name."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise UsageError(f"--filename {template!r}: {error}") from error
    unknown = [field for field in fields if field not in FIELDS]
    if unknown:
        raise UsageError(
            f"--filename: there is no field {{{unknown[0]}}}; there are {', '.join(f'{{{f}}}' for f in FIELDS)}"
        )
    for needed in ("stem", "ext"):
        if needed not in fields:
            raise UsageError(f"--filename {template!r} needs {{{needed}}}, as in '{{track}}/{{stem}}.{{ext}}'")


def plan(sources: Sequence[Path], out: Path, template: str, *, model: str, stems: Sequence[str], ext: str) -> list[Job]:
    """The outputs of each input.

    Raises:
        UsageError: two outputs of one name, an output outside of `out`, or one that is itself an input.
    """
    root, inputs = os.path.abspath(out), {path.resolve() for path in sources}
    owners: dict[Path, Path] = {}
    jobs = []
    for source in sources:
        parent = source.resolve().parent.name
        outputs = {}
        for stem in stems:
            name = template.format(
                model=model, track=source.stem.removesuffix(".stem"), stem=stem, ext=ext, parent=parent
            )
            path = Path(os.path.abspath(os.path.join(root, name)))
            if os.path.commonpath([root, path]) != root or str(path) == root:
                raise UsageError(
                    f"{source}: the output {name!r} would be outside of {out}: choose another --out or --filename"
                )
            if path in owners:
                other = f"{owners[path]} and {source}" if owners[path] != source else f"two stems of {source}"
                raise UsageError(
                    f"{other} would both be written to {path}: tell them apart with --filename, e.g. by {{parent}}"
                )
            if path.resolve() in inputs:
                raise UsageError(f"{path} is an input and would be overwritten: choose another --out or --filename")
            owners[path] = source
            outputs[stem] = path
        jobs.append(Job(source, Path(root), outputs))
    return jobs
