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

FIELDS = ("model", "track", "stem", "ext", "parent", "suffix")


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

    @property
    def folder(self) -> Path:
        """That all outputs are below."""
        return Path(os.path.commonpath([path.parent for path in self.outputs.values()]))


def find_inputs(names: Iterable[str], extensions: Iterable[str], out: Path) -> tuple[list[Path], dict[str, str]]:
    """The audio files that files, folders (with all below them) and glob patterns stand for, in a stable order.

    Of folders and patterns, what is hidden is left out, and what is in the output folder `out` if that is below them: the
    stems of an earlier run.

    Returns:
        files: each once.
        problems: name -> why nothing was found under it.
    """
    extensions = tuple(extensions)
    found: dict[Path, Path] = {}  # resolved path: path as given
    problems: dict[str, str] = {}
    for name in names:
        try:
            paths = _matching(name, extensions, out.resolve())
            if paths:
                found.update({path.resolve(): path for path in paths if path.resolve() not in found})
            else:
                what = "no file matches this pattern"
                if Path(name).is_dir():
                    readable = os.access(name, os.R_OK | os.X_OK)
                    what = (
                        "a folder without audio files" if readable else "a folder that cannot be read (no permission)"
                    )
                problems[name] = f"{name}: {what}"
        except (OSError, RuntimeError) as error:  # a name too long, no permission, links in a circle
            problems[name] = f"{name}: cannot be looked up ({getattr(error, 'strerror', None) or error})"
    return list(found.values()), problems


def _matching(name: str, extensions: tuple[str, ...], out: Path) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        paths, root = path.rglob("*"), path
        paths = (p for p in paths if p.suffix.lower() in extensions)
    elif path.exists() or not glob.has_magic(name):
        return [path]  # a missing file is reported when it is opened, like one that is no audio
    else:
        paths, root = map(Path, glob.glob(name, recursive=True)), Path()
    earlier = root.resolve() in out.parents

    def wanted(p: Path) -> bool:
        below = p.relative_to(root).parts if path.is_dir() else (p.name,)
        hidden = any(part.startswith(".") for part in below)
        return p.is_file() and not hidden and not (earlier and out in p.resolve().parents)

    return sorted(filter(wanted, paths))


def check_template(template: str) -> None:
    """Refuses a template of file names that cannot be filled in, or that would give all stems one name."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise UsageError(f"--filename {template!r}: {error}") from error
    fields = [field for _, field, _, _ in parts]
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise UsageError(f"--filename {template!r}: fields are plain names, as in {{track}}, without ':' or '!'")
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
        parent, track = source.resolve().parent.name, source.stem.removesuffix(".stem")
        suffix = source.suffix.removeprefix(".")
        outputs = {}
        for stem in stems:
            fields = {"model": model, "track": track, "stem": stem, "ext": ext, "parent": parent, "suffix": suffix}
            for field, value in fields.items():
                if f"{{{field}}}" in template and (value in ("", ".", "..") or "/" in value or os.sep in value):
                    raise UsageError(
                        f"{source}: the {field} {value!r} cannot be in a file name: leave it out of --filename"
                    )
            path = Path(os.path.abspath(os.path.join(root, template.format(**fields))))
            if os.path.commonpath([root, path]) != root or str(path) == root:
                raise UsageError(f"{source}: the output {path} would be outside of {out}: choose another --filename")
            if path in owners:
                other = f"{owners[path]} and {source}" if owners[path] != source else f"two stems of {source}"
                by = "suffix" if owners[path].resolve().parent == source.resolve().parent else "parent"
                raise UsageError(
                    f"{other} would both be written to {path}: tell them apart with --filename, e.g. by {{{by}}}"
                )
            if path.resolve() in inputs:
                raise UsageError(f"{path} is an input and would be overwritten: choose another --out or --filename")
            owners[path] = source
            outputs[stem] = path
        jobs.append(Job(source, Path(root), outputs))
    return jobs
