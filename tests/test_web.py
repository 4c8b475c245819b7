"""The web demo: what a visitor does in a browser, and what is refused to one who means ill."""

import http.client
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import mss.web
from mss.apps.web.guard import Limits
from mss.audio import read, write
from tests.conftest import sdr

pytest.importorskip("gradio")

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{3}}.wav"
LIMITS = Limits(megabytes=2.0, minutes=0.1, queue=2)
RATE = 44100


def tones(seconds: float, rate: int = RATE) -> torch.Tensor:
    """A held tone and clicks, (2, t)."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    x = 0.2 * torch.sin(2 * math.pi * 440 * t)
    x[:: rate // 4] += 0.5
    return x.float().expand(2, -1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Running, with two quick methods, and a checkpoint that was named."""
    import mss
    from mss.apps.web.app import serving
    from mss.apps.web.catalogue import Catalogue

    model = tmp_path_factory.mktemp("models") / "mine.safetensors"
    mss.save(mss.load("panning"), model)
    catalogue = Catalogue([str(model)], methods=["hpss"], device=torch.device("cpu"))
    with serving(catalogue, LIMITS, port=0) as running:
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield running
        running.handle_exit(signal.SIGINT, None)  # Ctrl-C
        thread.join(20)
        assert not thread.is_alive()
        folder = running.visits.root
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["uploads"]
    assert not folder.exists()


@pytest.fixture
def page(server, browser):
    """The demo in a browser; no error, no alert, and no request to anywhere else."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(40000)
    problems, page.refused = [], []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else problems.append(r.url))
    page.goto(server.url)
    page.wait_for_selector("#separate")
    yield page
    context.close()
    assert [text for text in problems if text not in page.refused] == []


def drop(page, path: Path, said: str) -> None:
    page.set_input_files("#song input[type=file]", path)
    page.locator("#status", has_text=said).wait_for()


def choose(page, method: str) -> None:
    page.click("#method input")
    page.locator("#method [role=option]", has_text=method).click()


def fetched(server, path: str) -> torch.Tensor:
    status, body = ask(server, "GET", f"/{path}")
    assert status == 200
    file = server.visits.root / "fetched.wav"
    file.write_bytes(body)
    return read(file)[0]


def ask(server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def send(server, name: str, data: bytes) -> tuple[int, bytes]:
    """Uploads a file as gradio's page does."""
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return ask(
        server,
        "POST",
        "/gradio_api/upload",
        head + data + b"\r\n--b--\r\n",
        Content_Type="multipart/form-data; boundary=b",
    )


def call(server, file: object, route: str = "queue/join", button: str = "song", **more: object) -> tuple[int, bytes]:
    """Names a file as if it were the song of a visitor, or does what a button does."""
    config = json.loads(ask(server, "GET", "/config")[1])
    (own,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == button)
    (index,) = (one["id"] for one in config["dependencies"] if own in [at[0] for at in one["targets"]])
    body = json.dumps({"data": [file], "fn_index": index, "session_hash": "forged", **more}).encode()
    return ask(server, "POST", f"/gradio_api/{route}", body, Content_Type="application/json")


def wav(x: torch.Tensor, tmp_path: Path, rate: int = RATE) -> bytes:
    write(tmp_path / "x.wav", x, rate)
    return (tmp_path / "x.wav").read_bytes()


# In a browser


def test_a_song_is_separated_heard_mixed_and_forgotten(server, page, tmp_path):
    song = tmp_path / HOSTILE
    write(song, tones(2.0), RATE)
    drop(page, song, "0:02, 44.1 kHz, stereo")
    assert "img src=x" in page.inner_text("#status")
    choose(page, "hpss")
    page.locator("#about", has_text="median filtering").wait_for()
    page.click("#separate")
    page.locator("#stems audio").nth(1).wait_for()
    assert page.locator("#stems strong").all_inner_texts() == ["harmonic", "percussive"]
    stems = [fetched(server, audio.get_attribute("src")) for audio in page.locator("#stems audio").all()]
    torch.testing.assert_close(sum(stems), read(song)[0], rtol=0, atol=1e-4)
    page.evaluate("document.querySelector('#stems audio').play()")
    page.wait_for_function("document.querySelector('#stems audio').currentTime > 0.1")
    with page.expect_download() as download:
        page.click("#stems a >> nth=0")
    assert download.value.suggested_filename.endswith("harmonic.wav")
    saved = tmp_path / "saved.wav"
    download.value.save_as(saved)
    assert torch.equal(read(saved)[0], stems[0])

    frame = page.frame_locator("#page iframe")
    assert frame.locator("figure").count() == 3  # of the article
    frame.locator(".time").evaluate(
        "(time) => new MutationObserver(() => { time.dataset.ran = 1; }).observe(time, { childList: true })"
    )
    frame.locator(".play").click()
    frame.locator(".time[data-ran]").wait_for()  # whatever it shows when we look: the song is short

    page.click("#mix")
    first = page.locator("#remix audio")
    first.wait_for()
    unchanged = first.get_attribute("src")
    torch.testing.assert_close(fetched(server, unchanged), read(song)[0], rtol=0, atol=1e-4)
    page.get_by_label("mute harmonic").check()
    gain = page.get_by_role("spinbutton").nth(2)  # of gain, pan, gain, pan
    gain.fill("-6")
    gain.press("Enter")
    page.click("#mix")
    page.locator(f"#remix audio:not([src='{unchanged}'])").wait_for()
    louder = fetched(server, first.get_attribute("src"))
    assert sdr(stems[1] * 10 ** (-6 / 20), louder) > 60
    assert ask(server, "GET", f"/{unchanged}")[0] == 404  # only the last one is kept

    (visit,) = (path for path in server.visits.root.iterdir() if path.is_dir() and path.name != "uploads")
    page.close()
    until = time.monotonic() + 40
    while visit.exists():
        assert time.monotonic() < until, "what a visitor left is still there"
        time.sleep(0.1)
    assert not server.visits.kept
    assert not [path for path in (server.visits.root / "uploads").rglob("*") if path.is_file() and path.stat().st_size]


def test_what_is_no_song_is_refused_in_a_sentence(server, page, tmp_path):
    text = tmp_path / "words.mp3"
    text.write_text("no music " * 100)
    drop(page, text, "words.mp3 is not an audio file")
    page.click("#song button[aria-label='Clear']")
    long = tmp_path / "long.wav"
    write(long, tones(7.0, 8000), 8000)
    drop(page, long, "long.wav is too long: at most 0.1 minutes")
    page.click("#separate")
    page.locator("#status", has_text="Drop a song first").wait_for()
    page.click("#song button[aria-label='Clear']")
    large = tmp_path / "large.wav"
    large.write_bytes(b"RIFF" + bytes(3_000_000))
    page.set_input_files("#song input[type=file]", large)
    page.get_by_text("maximum").first.wait_for()
    assert not list(server.visits.root.glob("*/song*"))


# Over HTTP


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "../../etc/passwd", "http://127.0.0.1:1/x.wav", "", None, 7])
def test_no_file_that_was_not_uploaded_is_opened(server, path):
    meta = {"_type": "gradio.FileData"}
    whole = {"path": path, "meta": meta}
    for file in (whole, {"path": path}, [whole], {"x": whole}):
        for route in ("queue/join", "run/predict"):
            assert call(server, file, route) == (403, b'{"detail": "That file was not uploaded."}')
    assert call(server, {"url": "http://127.0.0.1:1/x.wav", "meta": meta})[0] == 403
    assert call(server, None, event_data={"path": path, "meta": meta})[0] == 403


def test_no_address_of_a_file_gets_through(tmp_path):
    from mss.apps.web.guard import Guard

    guard = Guard(None, host="127.0.0.1", limits=LIMITS, folder=tmp_path, uploads=lambda: ["/u/a.wav"])
    file = {"path": "/u/a.wav", "url": "http://127.0.0.1:1/a.wav"}
    assert guard._checked(json.dumps({"data": [file]}).encode()) == (None, b'{"data": [{"path": "/u/a.wav"}]}')


def test_gradio_checks_paths_too(server, tmp_path):
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    LocalContext.blocks.set(server.demo)
    try:
        with pytest.raises(InvalidPathError):
            _check_allowed("/etc/passwd", True)
    finally:
        LocalContext.blocks.set(None)


def test_an_uploaded_file_is_opened_whatever_address_it_is_given(server, tmp_path):
    status, body = send(server, "a.wav", wav(tones(0.5), tmp_path))
    assert status == 200
    (path,) = json.loads(body)
    assert Path(path).is_relative_to(server.visits.root / "uploads")
    with socket_that_nobody_may_call() as (address, called):
        assert (
            call(server, {"path": path, "url": f"http://{address}/a.wav", "meta": {"_type": "gradio.FileData"}})[0]
            == 200
        )
        until = time.monotonic() + 10
        while "forged" not in server.visits._visits:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert not called()
    server.visits.close("forged")


class socket_that_nobody_may_call:  # noqa: N801
    def __enter__(self):
        import socket

        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        return f"127.0.0.1:{self.socket.getsockname()[1]}", self.called

    def called(self) -> bool:
        try:
            self.socket.accept()
        except TimeoutError:
            return False
        return True

    def __exit__(self, *_):
        self.socket.close()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/sound/../../etc/passwd",
        "/sound/%2e%2e%2fetc%2fpasswd",
        "/static/..%2f..%2f..%2fpyproject.toml",
        "/assets/%2e%2e/%2e%2e/index.html",
        "/static/..%5c..%5cpyproject.toml",
        "/page/unknown",
    ],
)
def test_nothing_else_is_served(server, path):
    status, body = ask(server, "GET", path)
    assert status == 404
    assert b"root:" not in body
    status, body = ask(server, "GET", path.replace("=/", f"={server.visits.root}/"))
    assert status == 404


@pytest.mark.parametrize(
    "path", ["run/accept", "call/accept", "api/accept", "component_server", "vibe-edit", "../login"]
)
def test_nothing_else_takes_anything(server, path):
    assert ask(server, "POST", f"/gradio_api/{path}", b"{}", Content_Type="application/json")[0] == 404


def test_an_upload_that_is_too_large_is_not_taken(server):
    before = set((server.visits.root / "uploads").rglob("*"))
    status, body = ask(server, "POST", "/gradio_api/upload", Content_Length="2100000")  # refused before it comes
    assert status == 413
    assert b"at most 2 MB" in body
    assert ask(server, "POST", "/gradio_api/upload", Content_Length="9" * 14)[0] == 413
    status, _ = ask(server, "POST", "/gradio_api/upload", iter([b"x"]), Transfer_Encoding="chunked")
    assert status == 411
    assert ask(server, "POST", "/gradio_api/queue/join", b"[" * 90_000)[0] == 400
    assert ask(server, "POST", "/gradio_api/queue/join", b"1" * 200_000)[0] == 413
    assert set((server.visits.root / "uploads").rglob("*")) == before


def test_what_broke_off_is_removed_and_a_full_folder_takes_no_more(server, tmp_path):
    folder = server.visits.root / "uploads"
    (folder / "tmpold").write_bytes(b"x")
    os.utime(folder / "tmpold", (time.time() - 700,) * 2)
    (folder / "tmpnew").write_bytes(b"x")
    status, body = send(server, "nothing.txt", b"x")
    assert status == 200
    Path(json.loads(body)[0]).unlink()
    assert not (folder / "tmpold").exists()
    assert (folder / "tmpnew").exists()
    os.truncate(folder / "tmpnew", 20 * LIMITS.bytes)
    assert send(server, "nothing.txt", b"x")[0] == 507
    (folder / "tmpnew").unlink()


def test_one_job_is_done_at_a_time_and_few_wait(server, monkeypatch):
    from mss.apps.web.catalogue import Refusal

    working, most, gate = [], [], threading.Event()

    def separate(*_):
        working.append(1)
        most.append(len(working))
        gate.wait(20)
        working.pop()
        raise Refusal("no")

    monkeypatch.setattr(server.visits, "separate", separate)
    try:
        assert call(server, "hpss", button="separate")[0] == 200
        until = time.monotonic() + 10
        while not working:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert [call(server, "hpss", button="separate", session_hash=f"s{i}")[0] for i in range(3)] == [200, 200, 503]
        assert call(server, "hpss", "run/predict", button="separate")[0] != 200  # nobody goes before the queue
    finally:
        gate.set()
    while len(most) < 3 or working:
        assert time.monotonic() < until + 10
        time.sleep(0.02)
    assert max(most) == 1


def test_other_sites_cannot_use_it(server):
    assert ask(server, "GET", "/", Host="evil.example")[0] == 403  # a name that was made to point here
    assert ask(server, "POST", "/gradio_api/queue/join", b"{}", Origin="http://evil.example")[0] == 403
    assert ask(server, "POST", "/gradio_api/queue/join", b"{}", Origin="null")[0] == 403  # a frame of ours
    assert ask(server, "GET", "/", Host=f"localhost:{server.port}")[0] == 200


# The work, without a server


@pytest.fixture
def visits(server, tmp_path):
    from mss.apps.web.visits import Visits

    return Visits(tmp_path, server.visits.catalogue, LIMITS)


@pytest.mark.parametrize("name", ["x.m3u8", "x.mp3", "x.wav", "x.txt"])
@pytest.mark.parametrize("tags", [b"", b"ID3\x04\0\0\0\0\0\x02ab", b"ID3\x04\0\0\0\0\0\0" * 3])
def test_a_playlist_does_not_open_what_it_names(visits, tmp_path, name, tags):
    from mss.apps.web.catalogue import Refusal

    write(tmp_path / "private.mp3", tones(2.0), RATE)
    lists = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nprivate.mp3\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile private.mp3\n",
        "<?xml version='1.0'?><MPD/>",
        "v=0\n",
    )
    for text in lists:
        (tmp_path / name).write_bytes(tags + text.encode())
        with pytest.raises(Refusal, match="is not an audio file"):
            visits.accept("me", tmp_path / name)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "aiff"])
def test_what_is_written_here_begins_as_audio(tmp_path, excerpt_path, extension):
    import soundfile

    from mss.apps.web.visits import is_audio
    from mss.audio import Encoding

    path = tmp_path / f"x.{extension}"
    if extension == "aiff":
        soundfile.write(path, tones(0.5).T.numpy(), RATE)
    else:
        write(path, tones(0.5, 48000), 48000, encoding=Encoding(extension))
    assert is_audio(path)
    assert is_audio(excerpt_path)


def test_a_header_that_lies_does_not_make_a_song_short(visits, tmp_path):
    from mss.apps.web.catalogue import Refusal

    data = bytearray(wav(tones(8.0, 8000), tmp_path, 8000))
    (tmp_path / "long.mp3").write_bytes(data)
    with pytest.raises(Refusal, match="too long"):
        visits.accept("me", tmp_path / "long.mp3")
    many = torch.zeros(9, 100)
    write(tmp_path / "many.wav", many, 8000)
    with pytest.raises(Refusal, match="9 channels"):
        visits.accept("me", tmp_path / "many.wav")
    (tmp_path / "broken.wav").write_bytes(data[:1000])
    with pytest.raises(Refusal) as told:
        visits.accept("me", tmp_path / "broken.wav")
    assert str(tmp_path) not in str(told.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_progress_is_told(visits, tmp_path, monkeypatch):
    monkeypatch.setattr("mss.apps.separation.BLOCK_SECONDS", 1.0)
    monkeypatch.setattr("mss.apps.web.visits.write_page", lambda path, *_, **__: path.touch())
    write(tmp_path / "song.wav", tones(5.5), RATE)
    visits.accept("me", tmp_path / "song.wav")
    told = []
    visits.separate("me", "hpss", lambda *args: told.append(args))
    shares, texts = zip(*told, strict=True)
    assert list(dict.fromkeys(texts)) == ["Loading hpss", "Separating", "Drawing the figures"]
    assert list(shares) == sorted(shares)
    assert len({share for share in shares if 0 < share < 0.9}) >= 1


def test_a_visit_that_ends_stops_its_work_and_leaves_nothing(visits, tmp_path):
    from mss.apps.web.catalogue import Refusal

    write(tmp_path / "song.wav", tones(2.0), RATE)
    visits.accept("me", tmp_path / "song.wav")
    seen = []

    def leave(share, text):
        if text == "Separating" and share > 0 and not seen:
            seen.append(threading.Thread(target=visits.close, args=("me",)))
            seen[0].start()
            while not visit.stop.is_set():
                time.sleep(0.01)

    visit = visits._visits["me"]
    with pytest.raises(Refusal, match="Given up"):
        visits.separate("me", "hpss", leave)
    seen[0].join(10)
    assert not visit.folder.exists()
    assert not visits.kept
    with pytest.raises(Refusal, match="Drop a song first"):
        visits.separate("me", "hpss")


@pytest.mark.parametrize("method", ["../mine", "score_informed", "nmf", "/etc/passwd", None, 3, ["hpss"]])
def test_only_the_methods_offered_are_used(visits, tmp_path, method):
    from mss.apps.web.catalogue import Refusal

    write(tmp_path / "song.wav", tones(0.5), RATE)
    visits.accept("me", tmp_path / "song.wav")
    with pytest.raises(Refusal, match="no such method"):
        visits.separate("me", method)


# The command line


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(self):
        assert list(tmp_path.glob(".mss-*/uploads"))
        raise KeyboardInterrupt  # as uvicorn does when it has ended

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("mss.apps.web.app.Server.run", interrupted)
    monkeypatch.setattr("mss.web.start_torch", lambda: None)
    assert mss.web.main(["--methods", "hpss", "--port", "0"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "the demo is at http://127.0.0.1:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--max-mb", "0"], "--max-mb"),
        (["--max-minutes", "nan"], "--max-minutes"),
        (["--queue", "-1"], "--queue"),
        (["--port", "70000"], "--port"),
        (["score_informed"], "needs a score"),
        (["--methods", "nonsense"], "no method 'nonsense'"),
        (["missing.safetensors"], "missing.safetensors"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(arguments, text, capsys, monkeypatch):
    monkeypatch.setattr("mss.web.start_torch", lambda: None)
    assert mss.web.main(arguments) == 2
    said = capsys.readouterr().err
    assert text in said
    assert "Traceback" not in said


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert mss.web.main([]) == 2
    assert "pip install 'mss-separation[web]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)]
)
def test_serving_the_network_is_warned_of(host, warned, capsys, monkeypatch):
    monkeypatch.setattr("mss.apps.web.app.Server.run", lambda self: None)
    monkeypatch.setattr("mss.web.start_torch", lambda: None)
    assert mss.web.main(["--methods", "hpss", "--port", "0", "--host", host]) == 0
    said = capsys.readouterr()
    assert ("everybody in the network" in said.err) == warned
    assert "the demo is at http://" in said.out
