"""python -m mss.share info|card|score|scores|push|pull|verify: looks into checkpoints, gives them away, gets and checks them.

Exit codes: 0 done, 1 a checkpoint, server or folder was at fault, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mss.cli import FAILED, UsageError, exit_code, set_up_logging, start_torch

__all__ = ["main"]

WHERE = "a path, a pretrained model's name, file://, https:// (checked with #sha256=...), or hf:owner/repo[@revision][/file]"


class ShareError(ValueError):
    """A folder or server that does not take what is pushed."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.share",
        description=f"Shares checkpoints. A model is {WHERE}.",
        epilog="Exit codes: 0 done, 1 a checkpoint, server or folder was at fault, 2 wrong usage, 130 interrupted.",
    )
    verbs = p.add_subparsers(dest="verb", required=True, metavar="info|card|score|scores|push|pull|verify")
    add = verbs.add_parser("info", help="what is inside").add_argument
    add("model", help=WHERE)
    add("--json", action="store_true", help="all of it, as JSON")
    add = verbs.add_parser("card", help="a model card in Markdown, as the Hugging Face Hub shows it").add_argument
    add("model", help=WHERE)
    add("-o", "--out", type=Path, metavar="FILE", help="write it there (default: standard output)")
    add = verbs.add_parser("score", help="keep the scores of every track in the file").add_argument
    add("model", type=Path, help="a checkpoint of yours, which is changed: facts only, not the weights")
    add("results", type=Path, help="folder that mss.evaluate wrote, of the system or any above it")
    add("--medians", action="store_true", help="one number for each metric of a track, not one for each frame")
    add("--force", action="store_true", help="take scores that do not say which weights they are of")
    add = verbs.add_parser("scores", help="the scores in a file as JSON, one for each track").add_argument
    add("model", help=WHERE)
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="write them there, as mss.evaluate does")
    add = verbs.add_parser(
        "push", help="checkpoint, card and SHA-256 into a folder or a repository of the Hub"
    ).add_argument
    add("model", help=WHERE)
    add("target", help="a folder (a path or file://), or hf:owner/repo[@branch][/file]; HF_TOKEN, or `hf auth login`")
    add("--private", action="store_true", help="make a new repository private")
    add("--force", action="store_true", help="replace a card, or another checkpoint of that name")
    add = verbs.add_parser("pull", help="get a checkpoint, checked").add_argument
    add("model", help=WHERE)
    add("target", type=Path, help="a file, or a folder that is there")
    add("--force", action="store_true", help="replace another file of that name")
    add = verbs.add_parser("verify", help="check digests, and that it builds").add_argument
    add("models", nargs="+", metavar="model", help=WHERE)
    for verb in verbs.choices.values():
        verb.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors and what was asked for")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parser().parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    set_up_logging(args.quiet)
    start_torch()
    if args.verb == "verify":
        failed = [model for model in args.models if not _told(verify, model, args)]
        return FAILED if failed else 0
    verbs = {"info": info, "card": card, "score": score, "scores": scores, "push": push, "pull": pull}
    return 0 if _told(verbs[args.verb], args.model, args) else FAILED


def _told(verb: Any, model: str, args: argparse.Namespace) -> bool:
    """Whether a verb succeeded; if not, why is told in one line."""
    try:
        verb(model, args)
    except UsageError:
        raise
    except ValueError as error:  # CheckpointError, DownloadError, ShareError
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or model}: {error.strerror or error}", file=sys.stderr)
    else:
        return True
    return False


def info(model: str, args: argparse.Namespace) -> None:
    """Prints what is inside."""
    from mss.apps.card import facts, lines

    known = facts(local(model))
    print(json.dumps(known, indent=2) if args.json else lines(known))


def card(model: str, args: argparse.Namespace) -> None:
    """Prints or writes a model card."""
    from mss.apps import card as cards
    from mss.files import write_whole

    address = str(folder_of(model)) if model.startswith("file://") else model
    text = cards.card(cards.facts(local(model)), address=address)
    if args.out is None:
        print(text)
    else:
        write_whole(args.out, text.encode())


def score(model: Path, args: argparse.Namespace) -> None:
    """Puts the scores of an evaluation into a checkpoint."""
    from mss import checkpoint
    from mss.apps.carried import packed

    if not args.results.is_dir():
        raise UsageError(f"{args.results}: no such folder; mss.evaluate writes one")
    checkpoint.load(model)  # nothing is added to a damaged file
    found = packed(args.results, checkpoint.read_header(model)["digest"], medians=args.medians, force=args.force)
    checkpoint.amend(model, scores=found)
    if not args.quiet:
        print(f"{model}: " + ", ".join(f"{name}, tracks: {len(one['tracks'])}" for name, one in found.items()))


def scores(model: str, args: argparse.Namespace) -> None:
    """Writes the scores in a checkpoint as files."""
    from mss import checkpoint
    from mss.apps.carried import unpack

    kept = checkpoint.read_header(local(model)).get("scores")
    if not kept:
        raise ShareError(f"{model}: has no scores; mss.share score puts those of mss.evaluate into it")
    written = unpack(kept, args.out)
    if not args.quiet:
        print(f"{args.out}: {len(written)} files")


def verify(model: str, args: argparse.Namespace) -> None:
    """Loads it, which checks its digest, and compares the .sha256 beside it if there is one."""
    from mss import checkpoint
    from mss.download import sha256_of

    path = checked(model)
    note = path.with_name(f"{path.name}.sha256")
    found = sha256_of(path)
    if note.is_file() and note.read_text(encoding="utf-8", errors="replace")[:64].lower() != found:
        raise checkpoint.CheckpointError(
            f"{path}: its SHA-256 is {found}, not what {note.name} says: get the file again"
        )
    if not args.quiet:
        print(f"{model}: good, SHA-256 {found}")


def pull(model: str, args: argparse.Namespace) -> None:
    """Copies a checkpoint, from wherever it is, to a path; it is checked before it appears there."""
    source, target = checked(model), args.target
    if target.is_dir():
        target = target / source.name
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the name of a checkpoint ends in .safetensors")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    _copy(source, target, args.force)
    if not args.quiet:
        print(target)


def push(model: str, args: argparse.Namespace) -> None:
    """Puts a checkpoint, its card and its SHA-256 into a folder or a repository."""
    from mss.apps import card as cards
    from mss.download import sha256_of
    from mss.files import write_whole
    from mss.remote import PLAIN

    path = checked(model)
    on_hub = args.target.startswith("hf:")
    if not on_hub and "://" in args.target and not args.target.startswith("file://"):
        raise UsageError(
            f"{args.target}: push to a folder, or to hf:owner/repo; a web server takes the folder by its own means"
        )
    if not on_hub and not PLAIN.fullmatch(path.name):
        raise UsageError(f"{path.name}: others get it by its name, so that should be of A-Z a-z 0-9 . _ -: rename it")
    known = cards.facts(path)
    if on_hub:
        to_hub(path, cards.card(known, address=args.target), args)
        return
    folder = folder_of(args.target)
    folder.mkdir(parents=True, exist_ok=True)
    _copy(path, folder / path.name, args.force)
    write_whole(folder / f"{path.name}.sha256", f"{sha256_of(path)}  {path.name}\n".encode())
    readme = folder / "README.md"
    if args.force or not readme.exists():
        write_whole(readme, cards.card(known, address=str(folder / path.name)).encode())
    elif not args.quiet:
        print(f"{readme}: kept (--force replaces it)")
    if not args.quiet:
        print(folder / path.name)


def to_hub(path: Path, readme: str, args: argparse.Namespace) -> None:
    """One commit with everything, by huggingface_hub, which finds the token by itself."""
    from mss.download import sha256_of
    from mss.remote import endpoint, hub_parts, offline, without_secrets

    repo, revision, file = hub_parts(args.target)
    if not file.endswith(".safetensors"):
        raise UsageError(f"{args.target}: the name of a checkpoint ends in .safetensors")
    if offline():
        raise UsageError("MSS_OFFLINE is set: nothing is pushed")
    server = endpoint()  # looked at before a token goes there
    if (
        urlsplit(server).hostname != "huggingface.co"
    ):  # others need not know its own way for large files; git-LFS they do
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import disable_progress_bars, get_token
        from huggingface_hub.utils.logging import set_verbosity_error
    except ImportError as error:
        raise UsageError("pushing to the Hub needs huggingface_hub: pip install mss-separation[hub]") from error
    set_verbosity_error()  # its warnings have the addresses it uploads to, signatures and all
    if args.quiet or not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(endpoint=server, library_name="mss")
    note = f"{sha256_of(path)}  {file.rpartition('/')[2]}\n"
    additions = {file: str(path), f"{file}.sha256": note.encode()}
    try:
        api.create_repo(repo, private=args.private or None, exist_ok=True)
        if args.force or not api.file_exists(repo, "README.md", revision=revision):
            additions["README.md"] = readme.encode()
        operations = [CommitOperationAdd(name, content) for name, content in additions.items()]
        api.create_commit(repo, operations, commit_message=f"{file} by mss.share", revision=revision)
    # RuntimeError is that of an upload; the bases are its HTTP client's errors too
    except (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__) as error:
        raise ShareError(f"{server}/{repo}: {without_secrets(error, get_token())}") from None
    if not args.quiet:
        print(f"{server}/{repo}")


def local(model: str) -> Path:
    """The file of a model, fetched if need be."""
    from mss import remote, zoo

    if model.startswith("file://"):
        return folder_of(model)
    if model in zoo.PRETRAINED or model in zoo.methods():
        return zoo.file_of(model)
    return remote.fetch(model, zoo.cache_folder()) if remote.is_address(model) else Path(model)


def checked(model: str) -> Path:
    """The same, loaded once to see that it is whole and builds."""
    from mss import checkpoint, remote, zoo

    if remote.is_address(model) and not model.startswith("file://"):
        return zoo.fetched(model)[0]
    path = local(model)
    checkpoint.load(path)
    return path


def folder_of(target: str) -> Path:
    """A path, or the path in file://."""
    if not target.startswith("file://"):
        return Path(target)
    parts = urlsplit(target)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{target}: file:// is of this machine: file:///folder/file")
    return Path(unquote(parts.path))


def _copy(source: Path, target: Path, force: bool) -> None:
    from mss.download import sha256_of
    from mss.files import write_whole

    if target.exists():
        if target.is_file() and sha256_of(target) == sha256_of(source):
            return
        if not force:
            raise ShareError(f"{target}: another file is there: --force replaces it")
    write_whole(target, source.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
