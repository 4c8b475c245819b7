"""The notebooks run, each in a kernel and a folder of its own, on little music, and what they end with is true."""

import ast
import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parent.parent / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
SHORT = {  # in place of what the cell tagged "parameters" says
    "01_separate_your_first_song": "SECONDS = 1.5",
    "02_the_article_in_code": "SECONDS = 1.5",
    "03_train_a_small_model": "EPOCHS = 2",
    "04_add_your_own_method": "SECONDS, STEPS, EPOCHS = 1.5, 20, 1",
}
FAMILIES = {
    *("oracle", "position", "independence", "harmonic and percussive", "sinusoidal", "common fate", "repetition"),
    *("kernels", "low rank", "factorisation", "source-filter", "networks"),
}


def executed(name: str, folder: Path, ask: str) -> object:
    """What the expression `ask` is, in a dict or list of plain values, when all cells have run."""
    book = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    place = next(i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(SHORT[name]))
    book.cells.append(nbformat.v4.new_code_cell(ask))
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    return ast.literal_eval(book.cells[-1].outputs[-1]["data"]["text/plain"])


def test_each_has_its_test_and_is_clean():
    assert {path.stem for path in FILES} == set(SHORT)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        book = nbformat.reads(text, 4)
        nbformat.validate(book)
        assert (book.nbformat, book.nbformat_minor) == (4, 5)
        assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n", f"{path.name}: not plain"
        assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "C:\\\\")), (
            f"{path.name}: a machine's path"
        )
        for cell in book.cells:
            kept = cell.get("outputs"), cell.get("execution_count")
            assert not any(kept), f"{path.name}: strip the outputs"
            assert len(cell.source.splitlines()) < 35, f"{path.name}: a cell of {len(cell.source.splitlines())} lines"


def test_the_first_song(tmp_path):
    difference, page, sizes = executed(
        "01_separate_your_first_song",
        tmp_path,
        "difference, pages[0].read_text()[:15], [tuple(x.shape) for x in (mixture, remixed, *stems.values())]",
    )
    assert difference < 1e-5
    assert page.lower().startswith("<!doctype html>")
    assert len(set(sizes)) == 1
    assert sizes[0][1] == int(1.5 * 44100)


def test_the_article(tmp_path):
    rows = executed("02_the_article_in_code", tmp_path, "rows")
    assert {row[0] for row in rows} == FAMILIES
    assert all(abs(value) < 200 for row in rows for value in row[3:]), "a score that is no finite number"
    gains = {row[1]: row[3] for row in rows}
    assert rows[0][0] == "oracle", "nothing beats masks of the true stems"
    assert gains["spleeter-2stems"] > 5
    assert gains["hpss"] > 2
    assert set(gains) > {"duet", "adress", "projet", "ica", "hpss", "repet", "kam", "nmf", "source_filter", "rpca"}


def test_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "home"))
    ask = "[[y for _, y in curves[k]] for k in curves], before, after, list(separator.targets), header['metrics']['epoch']"
    curves, before, after, targets, epoch = executed("03_train_a_small_model", tmp_path, ask)
    assert [len(curve) for curve in curves] == [2, 2, 2]
    assert curves[0][1] < curves[0][0]
    assert curves[1][1] < curves[1][0]
    assert after > before
    assert targets == ["vocals", "accompaniment"]
    assert epoch == 1


def test_ones_own_method(tmp_path, monkeypatch):
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "home"))
    ask = (
        "(streamed[0] - separator(mixture[None])[0]).abs().max().item(), (middle + sides - mixture).abs().max().item(), "
        "losses, sorted(path.name for path in Path('stems').iterdir()), list(three.targets), list(trained.targets), "
        "bool(estimates['vocals'].isfinite().all())"
    )
    streamed, lost, losses, files, three, trained, finite = executed("04_add_your_own_method", tmp_path, ask)
    assert streamed < 1e-5
    assert lost < 1e-4
    assert losses[-1] < 0.7 * losses[0]
    assert files == ["harmonic.wav", "left.wav", "percussive.wav", "right.wav"]
    assert sorted(three) == ["centre", "harmonic", "percussive"]
    assert trained == ["vocals", "accompaniment"]
    assert finite
