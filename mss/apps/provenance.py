"""Where a checkpoint comes from: what a run is recorded with, the run made again from its file, and what differs here.

A checkpoint is somebody else's file. Its configuration is taken as data: an interpolation in it is refused rather than
resolved, so nothing of this machine's environment is read, and what says where to write, or whom to tell, is not heard.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mss.cli import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Origin", "commit", "differences", "environment", "recorded", "without_from"]

# what whoever trains decides anew: folders that are written to, and who is told of the run
OWN = ("out", "resume", "quiet", "logger", "wandb", "data.cache")
DEEPEST = 30  # levels of lists and dicts
SAID = {"mss": "mss", "commit": "commit", "python": "Python", "torch": "torch", "lightning": "Lightning"}
SAID |= {"platform": "platform", "device": "device", "threads": "threads"}


def environment(accelerator: str | None = None) -> dict[str, Any]:
    """What a result may depend on besides configuration and data; versions of mss, torch and Python a file has anyway.

    Args:
        accelerator: that Lightning was told to use; None or "auto": the best there is.
    """
    import torch

    return {
        "lightning": version("lightning"),
        "platform": platform.platform(),
        "device": _device(accelerator),
        "threads": torch.get_num_threads(),
    }


def _device(accelerator: str | None = None) -> str:
    """The kind of device that Lightning takes: "cpu", "mps", or the name of the GPU."""
    import torch

    if accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if accelerator in (None, "auto", "gpu", "mps") and torch.backends.mps.is_available() else "cpu"


def commit() -> str | None:
    """The commit of the source tree that runs, if it is one."""
    folder = Path(__file__).parent.parent.parent
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def without_from(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--from MODEL` or `--from=MODEL` out of a command line, which Hydra would not know."""
    model, rest, left = None, [], iter(argv)
    for argument in left:
        if argument == "--from" or argument.startswith("--from="):
            _, given, value = argument.partition("=")
            model = value if given else next(left, "")
            if not model or (not given and model.startswith("-")):
                raise UsageError("--from takes a checkpoint: a path, https://..., or hf:owner/repo")
        else:
            rest.append(argument)
    return model, rest


class Origin:
    """The run that made a checkpoint, to be made again.

    Args:
        model: a path, or where it is shared, `hf:owner/repo`, `https://...`.
        defaults: all options of this version (`mss.train.schema`).

    Attributes:
        header: of the checkpoint.
        options: the defaults, with what is recorded in their place.
        left_out: what is recorded and not taken, one line each.

    Raises:
        UsageError: there is no such checkpoint, or it does not say how it was trained.
    """

    def __init__(self, model: str, defaults: DictConfig) -> None:
        self.model = model
        self.header = header_of(model)
        self.options, self.left_out = recorded(self.header, defaults)

    def check(self, data: Mapping[str, Any]) -> None:
        """Refuses options of the data that name what is not on this machine."""
        if missing := absent(data):
            raise UsageError(f"{', '.join(missing)}: recorded in {self.model}, and not there: say what it is here")

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Around what is made of the configuration, which may be of another version, or nonsense."""
        from mss.checkpoint import FAULTS

        try:
            yield
        except UsageError:
            raise
        except FAULTS as error:
            raise UsageError(f"{self.model}: its run cannot be made again: {' '.join(str(error).split())}") from error

    def told(self, options: Mapping[str, Any], digest: str) -> str:
        """What is run, and all that differs, a line each.

        Args:
            options: after what the command line says.
            digest: of the data that were found.
        """
        from omegaconf import OmegaConf

        here = environment(options["trainer"].get("accelerator"))
        lines = [*self.left_out, *differences(self.header, here, digest)]
        lines += _changed(OmegaConf.to_container(self.options, resolve=True), options)
        data = options["data"]["root"] or "synthetic songs"
        head = f"{self.model}: its run {options['name']!r} again, seed {options['seed']}, with the data of {data}"
        return "\n".join([head, *(lines or ["nothing differs here from where it was made"])]) + "\n"


def header_of(model: str) -> dict[str, Any]:
    """The header of a checkpoint that says how it was trained, fetched if need be.

    Raises:
        UsageError: there is none, or it does not say so.
    """
    from mss import checkpoint, remote, zoo

    if model in zoo.methods():
        raise UsageError(f"{model} is a method that was not trained: choose an experiment, e.g. experiment=umx")
    if model in zoo.PRETRAINED:
        raise UsageError(f"{model} was trained elsewhere and imported: how is not known; choose an experiment")
    try:
        path = remote.fetch(model, zoo.cache_folder()) if remote.is_address(model) else Path(model)
        header, _ = checkpoint.outline(path)
    except ValueError as error:  # not an address, out of reach, not a checkpoint
        raise UsageError(str(error)) from error
    if not isinstance(header.get("config"), dict):
        raise UsageError(
            f"{model}: has no configuration, as it was imported or saved by hand, not trained by mss.train: "
            "choose an experiment, e.g. experiment=umx"
        )
    return header


def recorded(header: Mapping[str, Any], defaults: DictConfig) -> tuple[DictConfig, list[str]]:
    """The configuration of a run as the defaults of this one, and what of it is not taken, one line each.

    Args:
        header: of the checkpoint.
        defaults: all options of this version (`mss.train.schema`).

    Raises:
        UsageError: not a configuration as mss.train records it.
    """
    from omegaconf import OmegaConf

    from mss.apps.card import printable
    from mss.remote import PLAIN

    config = header["config"]
    _check_plain(config)
    result = OmegaConf.to_container(defaults)
    lines = []
    for name, value in _options(config):
        group, _, inner = name.rpartition(".")
        there = result[group] if group else result
        if name in OWN:
            continue
        if inner not in there:
            lines.append(f"{printable(name)}: no option of this version, left out")
            continue
        if not group and not _fits(value, there[inner]):  # the rest is refused by what it is given to
            raise UsageError(f"its configuration is damaged: {printable(name)} is {printable(value)}")
        there[inner] = value
    # as in an experiment, so that network.hidden=8 changes all of them
    result["separator"] = _named(result["separator"], result["network"], "${network}")
    if not PLAIN.fullmatch(result["name"]):  # it is a part of the folder that is written to
        lines.append(f"name: {printable(result['name'])!r} cannot name a folder, the run is called 'run'")
        result["name"] = "run"
    return OmegaConf.create(result), lines


def differences(header: Mapping[str, Any], here: Mapping[str, Any], digest: str) -> Iterator[str]:
    """What is not as it was when a checkpoint was made, one line each.

    Args:
        header: of the checkpoint.
        here: `environment()`, of this machine.
        digest: of the data that were found here.
    """
    import torch

    import mss
    from mss.apps.card import printable

    of_file = {**_dict(header.get("versions")), **_dict(header.get("environment")), "commit": header.get("commit")}
    own = {"mss": mss.__version__, "torch": torch.__version__, "python": platform.python_version()}
    own |= {"commit": commit(), **here}
    for name, said in SAID.items():
        then, now = of_file.get(name), own.get(name)
        if then is None and now is not None:
            yield f"{said}: not recorded, {now} here"
        elif then != now:
            yield f"{said}: {printable(then)} there, {'not known' if now is None else now} here"
    if (then := header.get("data_digest")) != digest:
        yield f"data: others than it was trained on (digest {printable(then)[:12]} there, {digest[:12]} here)"


def absent(data: Mapping[str, Any]) -> list[str]:
    """The folders and files of a configuration of data that are not there, as option=path."""
    synthetic = data.get("synthetic") or {}
    named = {"root": [data.get("root")], "extra": data.get("extra") or []}
    for name in ("midi", "singing", "soundfonts"):
        value = synthetic.get(name)
        named[f"synthetic.{name}"] = value if isinstance(value, list) else [value]
    return [
        f"data.{name}={path}"
        for name, paths in named.items()
        for path in paths
        if path is not None and not os.path.exists(os.path.expanduser(str(path)))
    ]


def _changed(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """The options that are not as recorded, a line each, but for those that are always one's own."""
    from mss.apps.card import printable

    if name in OWN or then == now:
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from _changed(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    else:
        yield f"{printable(name)}: {printable(then)} there, {printable(now)} here, as you say"


def _options(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options by their names; those of the data and of the trainer one by one."""
    for name, value in config.items():
        if name in ("data", "trainer") and isinstance(value, dict):
            yield from ((f"{name}.{inner}", option) for inner, option in value.items())
        else:
            yield name, value


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of its default; a default of None says nothing."""
    return default is None or isinstance(value, (int, float) if isinstance(default, int | float) else type(default))


def _named(part: Any, whole: Mapping[str, Any], name: str) -> Any:
    """With a name in the place of each part that is equal to a whole that is not empty."""
    if isinstance(part, dict):
        return name if whole and part == whole else {key: _named(value, whole, name) for key, value in part.items()}
    return [_named(value, whole, name) for value in part] if isinstance(part, list) else part


def _check_plain(part: Any, depth: int = 0) -> None:
    """Refuses what a recorded configuration cannot have: it was resolved, and made of options."""
    if depth > DEEPEST:
        raise UsageError("its configuration is nested deeper than one of mss.train: it is not used")
    if isinstance(part, str) and "${" in part:
        raise UsageError("its configuration has interpolations, which one of mss.train never has: it is not used")
    if isinstance(part, dict):
        for key, value in part.items():
            _check_plain(key, depth + 1)
            _check_plain(value, depth + 1)
    elif isinstance(part, list):
        for value in part:
            _check_plain(value, depth + 1)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
