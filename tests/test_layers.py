"""Who may import whom: downwards only, so that separating needs neither Lightning nor Hydra."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mss"
LAYERS = [  # the lowest first; a module may import from its own layer and those below
    ("cpu", "layouts", "surround"),
    ("audio", "download", "files", "transforms", "filters", "metrics", "phase"),
    ("spec", "data"),
    ("separator",),
    ("wrappers", "oracle"),
    ("upmixer",),
    ("adapters", "combined"),
    ("classical", "nets"),
    ("checkpoint", "importers", "remote"),
    ("zoo", "training"),
    ("cli", "apps"),
    ("separate", "remix", "evaluate", "train", "share", "export", "upmix", "listen", "web"),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
EDGE = ("argparse", "hydra", "tqdm", "gradio", "matplotlib", "rich")  # only where a person is spoken to
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports anywhere but under TYPE_CHECKING."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if node.module == "mss" else node.module for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in LEVEL, f"{own} has no place in LAYERS: give it one"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mss" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{path.name} ({own}) imports {name} from above"
        if parts[0] in EDGE:
            assert LEVEL[own] >= LEVEL["cli"], f"{path.name} imports {name}, which belongs to the verbs"
        if parts[0] in ("soundfile", "av"):
            assert own == "audio", f"{path.name} imports {name}: only mss.audio reads and writes files of audio"


@pytest.mark.parametrize("package", ["classical", "nets"])
def test_siblings_share_only_what_is_meant_to_be_shared(package):
    for path in (PACKAGE / package).glob("*.py"):
        if path.name != "__init__.py":
            inside = {name.split(".")[2] for name in imports(path) if name.startswith(f"mss.{package}.")}
            siblings = {module for module in inside if not module.startswith("_") and module != "blocks"}
            assert not siblings, f"{path.name} imports its siblings {siblings}"


@pytest.mark.parametrize("verb", ["separate", "web"])
def test_torch_is_not_imported_before_arguments_are_parsed(verb):
    parse = f"import sys, mss.{verb} as verb; verb.parser().parse_args(['x.wav']); "
    code = parse + "print([name for name in sys.modules if name in ('torch', 'numpy', 'av', 'gradio')])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
