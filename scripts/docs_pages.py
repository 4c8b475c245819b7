"""Pages of the site that are made of what is there: README, notebooks, commands, and the API. A hook of mkdocs (mkdocs.yml).

They are made when the site is, so nothing is said twice and nothing is out of date.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
VERBS = ("separate", "remix", "upmix", "listen", "web", "share", "export")  # those that argparse reads
HYDRA = ("evaluate", "train")  # their options are fields of a class
API: Mapping[str, tuple[str, tuple[str, ...]]] = {  # page -> title, modules
    "separators": (
        "Separators",
        (
            *("mss", "mss.separator", "mss.wrappers", "mss.adapters", "mss.combined"),
            *("mss.oracle", "mss.upmixer", "mss.surround"),
            *("mss.zoo", "mss.checkpoint", "mss.spec", "mss.remote"),
            *("mss.importers.openunmix", "mss.importers.spleeter"),
        ),
    ),
    "spectra": ("Transforms, filters, phases", ("mss.transforms", "mss.filters", "mss.phase")),
    "classical": ("Classical methods", ("mss.classical",)),
    "nets": ("Networks", ("mss.nets",)),
    "training": (
        "Training",
        ("mss.training", "mss.training.losses", "mss.training.module", "mss.training.setup", "mss.training.callbacks"),
    ),
    "data": ("Data", ("mss.data", "mss.data.augment")),
    "metrics": (
        "Metrics",
        ("mss.metrics", "mss.metrics.scores", "mss.metrics.leaderboard", "mss.metrics.significance"),
    ),
    "audio": ("Audio", ("mss.audio",)),
    "apps": ("Figures and pages", ("mss.apps.plots", "mss.apps.figures", "mss.apps.page", "mss.apps.balance")),
}


def public_names(module: str) -> dict[str, str]:
    """Names of a module's `__all__` -> where they are defined; those of `mss` itself are said there, in `_HOMES`."""
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = getattr(importlib.import_module(module), "__all__", ())
    homes: dict[str, str] = {}
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            package = f"{module}.{node.module}" if node.level else node.module
            homes |= {alias.asname or alias.name: package for alias in node.names if package.startswith("mss")}
    return {name: f"{homes.get(name, module)}.{name}" for name in names if not name.startswith("__")}


def api_page(title: str, modules: tuple[str, ...]) -> str:
    """Markdown that mkdocstrings fills in: each object once, below the first module that exports it."""
    parts, said = [f"# {title}\n"], set()
    for module in modules:
        about = (importlib.import_module(module).__doc__ or "").strip().split("\n\n")[0]
        parts.append(f"## `{module}`\n\n{about}\n")
        if module == "mss":  # its names are those of the modules below
            names = sorted(set(importlib.import_module(module).__all__) - {"__version__"})
            parts.append(f"Short for what the modules below have: {', '.join(f'`mss.{name}`' for name in names)}.\n")
            continue
        for path in public_names(module).values():
            if path not in said:
                said.add(path)
                parts.append(f"::: {path}\n")
    return "\n".join(parts)


def commands_page() -> str:
    """What each verb says of itself with --help."""
    parts = ["# Commands\n"]
    with mock.patch.dict(os.environ, COLUMNS="100"):
        for verb in VERBS:
            parser = importlib.import_module(f"mss.{verb}").parser()
            parts.append(f"## `python -m mss.{verb}`\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    for verb in HYDRA:
        options = importlib.import_module(f"mss.{verb}").Options.__doc__
        parts.append(f"## `python -m mss.{verb}`\n\n```text\n{options.rstrip()}\n```\n")
    return "\n".join(parts)


def notebooks() -> list[Path]:
    """In their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebooks_page() -> str:
    """Title and first words of each notebook, with a link to it."""
    parts = ["# Notebooks\n", "To be opened in Jupyter; the tests run every cell.\n"]
    for path in notebooks():
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, about = first.split("\n\n")[:2]
        parts.append(f"## [{title.lstrip('# ')}](notebooks/{path.name})\n\n{about}\n")
    return "\n".join(parts)


def in_site(markdown: str) -> str:
    """Links of a file at the top of the repository, or in docs/, as the site has them."""
    renamed = re.sub(r"\]\((?:\.\./)?README\.md", "](index.md", markdown)
    return re.sub(r"\]\((?:docs/|\.\./)(?=\w)", "](", renamed)


def pages() -> dict[str, str]:
    """Path in the site -> Markdown."""
    made = {to: in_site((ROOT / source).read_text(encoding="utf-8")) for source, to in COPIED.items()}
    made |= {f"api/{name}.md": api_page(*of) for name, of in API.items()}
    return made | {"commands.md": commands_page(), "notebooks.md": notebooks_page()}


def on_files(files, config):
    """Adds them all (mkdocs calls this)."""
    from mkdocs.structure.files import File

    for path, markdown in pages().items():
        files.append(File.generated(config, path, content=markdown))
    copied = {"references.bib": ROOT / "docs" / "references.bib"} | {f"notebooks/{p.name}": p for p in notebooks()}
    for to, source in copied.items():
        if files.get_file_from_path(to) is None:
            files.append(File.generated(config, to, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links from docs/ to what is outside of it."""
    return in_site(markdown)


def on_post_page(output, page, config):
    """Refuses a page that would load something from elsewhere (mkdocs calls this)."""
    if foreign := loads_from_elsewhere(output):
        raise ValueError(f"{page.url} is to need no network, and loads {', '.join(foreign)}")
    return output


def loads_from_elsewhere(html: str) -> list[str]:
    """Scripts, styles, fonts and pictures of a page that are not its site's."""
    tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", html)
    found = [re.search(r"""(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""", tag) for tag in tags]
    return [match[1] for match in found if match]
