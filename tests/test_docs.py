"""Everything public is on a page of the API, and no link of a Markdown file leads nowhere."""

import importlib
import importlib.util
import json
import pkgutil
import re
from pathlib import Path

import pytest

import mss

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
docs_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs_pages)

NOT_OF_THE_API = ("mss.apps", "mss.importers")  # what verbs are made of, and what is in it; without names of their own
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
NOTEBOOKS = docs_pages.notebooks()


def public_packages() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(mss.__path__, "mss.") if one.ispkg]
    return ["mss", *(name for name in found if not name.startswith(NOT_OF_THE_API))]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return docs_pages.pages()


@pytest.mark.parametrize("package", public_packages())
def test_every_public_name_is_on_a_page(package, pages):
    said = "\n".join(text for name, text in pages.items() if name.startswith("api/"))
    directives = set(re.findall(r"^::: (\S+)$", said, re.M))
    module = importlib.import_module(package)
    for name in set(module.__all__) - {"__version__"}:
        value = getattr(module, name)
        if isinstance(value, type(mss)):  # a module, with a section of its own
            assert f"## `{value.__name__}`" in said, f"{package}.{name}"
        else:
            own = [path for path in directives if path.rsplit(".", 1)[1] == name and _of(path) is value]
            assert own, f"{package}.{name} is on no page: name its module in scripts/docs_pages.py"


def _of(path: str) -> object:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_directive_names_something_with_a_docstring(pages):
    for text in pages.values():
        for path in re.findall(r"^::: (\S+)$", text, re.M):
            value = _of(path)
            if callable(value):
                assert value.__doc__, f"{path} has no docstring"


def test_every_page_of_the_menu_is_there(pages):
    menu = re.findall(r"^ +- ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("**/*.md")} | set(pages)
    assert set(menu) == there


def anchors(markdown: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def links(markdown: str) -> list[str]:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", markdown, flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def broken(markdown: str, place: Path) -> list[str]:
    """Links to files or headings that are not there, of a text in a file at `place`."""
    found = []
    for link in links(markdown):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (place.parent / name).resolve() if name else place
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_notebooks_lead_somewhere(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert broken(text, path) == []


def test_a_broken_link_is_found(tmp_path):
    here = tmp_path / "a.md"
    here.write_text("# One thing: `x`, here\n", encoding="utf-8")
    text = "[](a.md) [](b.md) [](#one-thing-x-here) [](a.md#two) [](https://example.org/x) `[](c.md)`"
    assert broken(text, here) == ["b.md", "a.md#two"]


def test_links_are_those_of_the_site():
    text = "[](docs/clusters.md) [](../CONTRIBUTING.md) [](LICENSE) [](../README.md#train)"
    assert docs_pages.in_site(text) == "[](clusters.md) [](CONTRIBUTING.md) [](LICENSE) [](index.md#train)"


def test_a_page_that_needs_the_network_is_refused():
    own = '<script src="assets/a.js"></script><a href="https://example.org">x</a><img src="data:,">'
    assert docs_pages.loads_from_elsewhere(own) == []
    foreign = own + '<script src="https://unpkg.com/x"></script><link rel="stylesheet" href=//fonts.example/css>'
    assert docs_pages.loads_from_elsewhere(foreign) == ["https://unpkg.com/x", "//fonts.example/css"]
