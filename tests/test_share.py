"""Sharing: what is pushed is what is pulled, from folders, web servers and the Hub (all on 127.0.0.1)."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

import mss
from mss import checkpoint, download, remote, share, zoo
from mss.download import DownloadError
from tests.servers import SIGNATURE, Server, make_hub, running
from tests.test_checkpoint import tiny

TOKEN = "hf_do_not_show_this"
NAME = "umx.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own, and no account of whoever runs the tests."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "MSS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "home"


@pytest.fixture
def server():
    with running(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / NAME
    facts = {
        "licence": "CC0-1.0",
        "training_data": "ten | songs",
        "metrics": {"sdr": {"vocals": 5.25}},
        "data_digest": "d" * 8,
    }
    mss.save(tiny(), path, **facts)
    return path


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_is_loaded_from_a_web_server_and_then_from_the_cache(server, saved, home):
    server.files[f"/a b/{NAME}"] = saved.read_bytes()
    url = f"{server.url}/a b/{NAME}"
    assert same(mss.load(url), tiny())
    assert same(mss.load(url), tiny())
    first, second = (headers for _, _, headers in server.asked)
    assert "If-None-Match" not in first
    assert second["If-None-Match"]  # and the answer had no body: 304
    changed = tiny(1)
    mss.save(changed, home / "new.safetensors")
    server.files[f"/a b/{NAME}"] = (home / "new.safetensors").read_bytes()
    assert same(mss.load(url), changed)


@pytest.mark.parametrize("digits", [8, 64])
def test_a_digest_is_checked_and_then_no_server_is_asked(server, saved, digits):
    data = saved.read_bytes()
    server.files["/x.safetensors"] = data
    url = f"{server.url}/x.safetensors#sha256={hashlib.sha256(data).hexdigest()[:digits]}"
    mss.load(url)
    mss.load(url)
    assert len(server.asked) == 1
    with pytest.raises(DownloadError, match=r"its SHA-256 is .*, not 00000000: .* not kept"):
        mss.load(f"{server.url}/x.safetensors#sha256=00000000")
    named = f"/x-{'0' * 64}.safetensors"
    server.files[named] = data
    with pytest.raises(DownloadError, match="its SHA-256 is"):
        mss.load(server.url + named)


def test_an_interrupted_download_goes_on(server, saved, home):
    data = saved.read_bytes()
    server.files["/x.safetensors"] = data
    server.cut = [1000, 500]
    assert same(mss.load(f"{server.url}/x.safetensors"), tiny())
    assert [headers.get("Range") for _, _, headers in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert {path.name for path in home.rglob("*") if path.is_file()} == {
        ".x.safetensors.json",
        ".x.safetensors.lock",
        "x.safetensors",
    }


def test_a_later_call_goes_on_and_does_not_mix_versions(server, saved, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.files["/x.safetensors"] = saved.read_bytes()
    server.cut = [1000]
    url = f"{server.url}/x.safetensors"
    with pytest.raises(DownloadError, match=r"broke off after 1000 of .*: download .* elsewhere and put it at "):
        mss.load(url)
    part = next(remote.locate(url, zoo.cache_folder()).path.parent.glob(".*.part"))
    part.write_bytes(b"x" * 1000)  # if these are in the result, it was not fetched anew
    server.files["/x.safetensors"] = saved.read_bytes()[:-1] + b"\1"
    with pytest.raises(checkpoint.CheckpointError, match="digest differs"):  # the new version, whole
        mss.load(url)
    assert [headers.get("Range") for _, _, headers in server.asked] == [None, "bytes=1000-"]


def test_several_processes_fetch_once(server, saved, home):
    server.files["/x.safetensors"] = saved.read_bytes()
    code = "import sys; from pathlib import Path; from mss import remote; remote.fetch(sys.argv[1], Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{server.url}/x.safetensors#sha256={download.sha256_of(saved)}", str(home)]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(3)))
    assert [d.returncode for d in done] == [0, 0, 0], done[0].stderr
    assert len(server.asked) == 1
    assert all(d.stderr == "" for d in done)  # progress is for terminals


def test_offline_the_cache_serves_and_the_message_says_where_to_put_the_file(server, saved, monkeypatch):
    url = f"{server.url}/x.safetensors"
    monkeypatch.setenv("MSS_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        mss.load(url)
    place = remote.locate(url, zoo.cache_folder()).path
    assert f"download {url} elsewhere and put it at {place}" in str(caught.value)
    place.parent.mkdir(parents=True)
    place.write_bytes(saved.read_bytes())
    assert same(mss.load(url), tiny())
    monkeypatch.delenv("MSS_OFFLINE")
    assert same(mss.load(url), tiny())  # put there by hand: the server is not asked
    assert server.asked == []


def test_a_server_out_of_reach(server, saved, monkeypatch):
    server.files["/x.safetensors"] = saved.read_bytes()
    url = f"{server.url}/x.safetensors"
    mss.load(url)
    server.files["/x.safetensors"] = lambda handler: handler.answer(503)
    assert same(mss.load(url), tiny())
    with pytest.raises(DownloadError, match=r"cannot be reached \(.*refused.*\): download .* and put it at "):
        mss.load("http://127.0.0.1:9/x.safetensors")


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, saved, caplog):
    server.files["/x.safetensors"] = saved.read_bytes()
    url = f"{server.url}/x.safetensors#sha256={download.sha256_of(saved)}"
    mss.load(url)
    place = remote.locate(url, zoo.cache_folder()).path
    place.write_bytes(place.read_bytes()[:-1] + b"\7")
    assert same(mss.load(url), tiny())
    assert "fetched again" in caplog.text


def test_a_cache_that_cannot_be_written_is_named(server, saved, monkeypatch, tmp_path):
    server.files["/x.safetensors"] = saved.read_bytes()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(DownloadError, match=r"cannot be written .* set MSS_HOME"):
        mss.load(f"{server.url}/x.safetensors")


def test_the_hub_by_repository_revision_and_file(server, saved, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    commit = "c" * 40
    data = saved.read_bytes()
    for path in ("main/model.safetensors", f"{commit}/sub/{NAME}", "refs/pr/1/model.safetensors"):
        server.files[f"/me/umx/resolve/{path}"] = data
    for address in ("hf:me/umx", f"hf:me/umx@{commit}/sub/{NAME}", "hf:me/umx@refs%2Fpr%2F1"):
        assert same(mss.load(address), tiny())
    before = len(server.asked)
    mss.load(f"hf:me/umx@{commit}/sub/{NAME}")  # a commit does not change
    assert len(server.asked) == before
    with pytest.raises(DownloadError, match=r"not there .HTTP 404.: check the names"):
        mss.load("hf:me/other")


def test_the_hub_s_own_digest_of_large_files_is_checked(server, saved, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files["/cdn"] = saved.read_bytes()
    digest = "1" * 64
    server.files["/me/umx/resolve/main/model.safetensors"] = lambda h: h.answer(
        302, Location="/cdn", X_Linked_Etag=f'"{digest}"'
    )
    with pytest.raises(DownloadError, match="its SHA-256 is"):
        mss.load("hf:me/umx")
    digest = download.sha256_of(saved)
    mss.load("hf:me/umx")
    before = len(server.asked)
    mss.load("hf:me/umx")
    assert len(server.asked) == before + 1  # the redirect says that nothing changed


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(server, saved, monkeypatch, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with running(Server()) as cdn:
        cdn.files["/x"] = saved.read_bytes()
        server.files["/me/umx/resolve/main/model.safetensors"] = lambda h: h.answer(
            302, Location=f"{cdn.url}/x?sign={TOKEN}"
        )
        assert share.main(["verify", "hf:me/umx"]) == 0
        assert server.asked[0][2]["Authorization"] == f"Bearer {TOKEN}"
        assert all("Authorization" not in headers for _, _, headers in cdn.asked)
        cdn.files["/x"] = lambda h: h.answer(400)
        assert share.main(["verify", "hf:me/umx"]) == 1
        server.files["/me/umx/resolve/main/model.safetensors"] = lambda h: h.answer(401)
        assert share.main(["verify", "hf:me/umx", f"https://user:{TOKEN}@x.org/a", f"hf:me/umx/{TOKEN}\n"]) == 1
        server.files[f"/x{NAME}"] = saved.read_bytes()
        mss.load(f"{server.url}/x{NAME}")
        assert "Authorization" not in server.asked[-1][2]  # not asked as the Hub
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\nX-Evil: 1")
    with pytest.raises(DownloadError, match="HF_TOKEN has characters") as caught:
        mss.load("hf:me/umx")
    kept = b"".join(path.read_bytes() for path in zoo.cache_folder().rglob("*") if path.is_file())
    said = "".join(capsys.readouterr()) + caplog.text + str(caught.value) + repr(caught.value.__cause__)
    said = said.replace(f"hf:me/umx/{TOKEN}", "")  # what the user typed as a name
    assert TOKEN not in said
    assert TOKEN.encode() not in kept
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in repr(remote.locate("hf:me/umx", zoo.cache_folder()))


def test_info_says_what_is_inside(saved, capsys):
    assert share.main(["info", str(saved)]) == 0
    said = capsys.readouterr().out
    numbers = sum(p.numel() for p in tiny().parameters())
    for fact in (
        "vocals, rest",
        "8000 Hz",
        f"{numbers:,}",
        "CC0-1.0",
        "sdr.vocals",
        "5.25",
        "d" * 8,
        "UNet",
        torch.__version__,
    ):
        assert fact in said
    assert share.main(["info", "--json", str(saved)]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["parameters"] == numbers
    assert known["spec"] == mss.spec.spec(tiny())
    assert share.main(["info", str(saved.parent / "none.safetensors")]) == 1
    assert capsys.readouterr().err.endswith("no such file\n")


def test_pretrained_models_by_their_names(capsys, tmp_path):
    assert share.main(["info", "--json", "spleeter-2stems"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert (known["licence"], known["targets"]) == ("MIT", ["vocals", "accompaniment"])
    assert share.main(["card", "spleeter-2stems"]) == 0
    assert "mss.load('spleeter-2stems')" in capsys.readouterr().out
    assert share.main(["pull", "spleeter-2stems", str(tmp_path / "mine.safetensors")]) == 0
    assert same(mss.load(tmp_path / "mine.safetensors"), mss.load("spleeter-2stems"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hpss", "error: hpss is a method without weights, so there is no file of it"),
        ("hybrid_4stems", "error: hybrid_4stems is made of other models and has no file"),
        ("hps", "error: hps: no such file"),
        ("umxhq", "error: MSS_OFFLINE is set and vocals-b62c91ce.pth is not on this machine"),
    ],
)
def test_names_that_have_no_file(name, says, capsys, monkeypatch):
    monkeypatch.setenv("MSS_OFFLINE", "1")
    for verb in ("info", "card", "verify"):
        assert share.main([verb, name]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert said.err.startswith(says)


def test_the_card_is_what_the_hub_reads(saved, capsys, tmp_path):
    assert share.main(["card", str(saved), "-o", str(tmp_path / "card.md")]) == 0
    front, body = (tmp_path / "card.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    front = yaml.safe_load(front)
    assert front["license"] == "cc0-1.0"
    assert front["pipeline_tag"] == "audio-to-audio"
    assert {"vocals", "rest", "music-source-separation"} <= set(front["tags"])
    assert "| sdr.vocals | 5.25 |" in body
    assert r"ten \| songs" in body
    assert f"mss.load({str(saved)!r})" in body
    assert "## Known limits" in body
    assert share.main(["card", saved.resolve().as_uri()]) == 0
    said = capsys.readouterr().out
    assert f"mss.load({str(saved.resolve())!r})" in said  # which takes no file://
    mss.save(tiny(), tmp_path / "bare.safetensors", licence="Songs' Own", source="<script>\x1b[31m")
    assert share.main(["card", str(tmp_path / "bare.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "license_name: Songs' Own" in text
    assert "training data: not stated" in text


def test_a_folder_is_pushed_served_verified_and_pulled(saved, tmp_path, server, capsys):
    folder = tmp_path / "shared"
    assert share.main(["push", str(saved), folder.as_uri()]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", NAME, f"{NAME}.sha256"]
    digest, name = (folder / f"{NAME}.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(saved.read_bytes()).hexdigest(), NAME)
    server.files[f"/{NAME}"] = (folder / NAME).read_bytes()
    for number, source in enumerate([str(folder / NAME), (folder / NAME).as_uri(), f"{server.url}/{NAME}"]):
        target = tmp_path / f"{number}.safetensors"
        assert share.main(["pull", source, str(target)]) == 0
        assert target.read_bytes() == saved.read_bytes()
    assert share.main(["verify", "-q", str(folder / NAME)]) == 0
    (folder / f"{NAME}.sha256").write_text("0" * 64)
    assert share.main(["verify", str(tmp_path / "0.safetensors"), str(folder / NAME)]) == 1
    assert f"{NAME}.sha256 says" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(saved, tmp_path, capsys):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    assert share.main(["push", str(saved), str(folder)]) == 0
    assert (folder / "README.md").read_text() == "mine"
    mss.save(tiny(3), tmp_path / NAME)
    assert share.main(["push", str(tmp_path / NAME), str(folder)]) == 1
    assert share.main(["pull", str(tmp_path / NAME), str(folder)]) == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert same(mss.load(folder / NAME), tiny())
    assert share.main(["push", "--force", str(tmp_path / NAME), str(folder)]) == 0
    assert same(mss.load(folder / NAME), tiny(3))
    assert "Separates music" in (folder / "README.md").read_text()


def test_the_hub_takes_what_it_gives(saved, server, monkeypatch, capsys):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    kept = make_hub(server, "me/umx")
    assert share.main(["push", str(saved), "hf:me/umx"]) == 0, capsys.readouterr().err
    assert sorted(kept) == ["README.md", "model.safetensors", "model.safetensors.sha256"]
    assert b"mss.load('hf:me/umx')" in kept["README.md"]
    assert same(mss.load("hf:me/umx"), tiny())
    server.files["/api/models/me/umx/commit/main"] = lambda h: h.answer(403, b'{"error": "no"}')
    assert share.main(["push", str(saved), "hf:me/umx"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert TOKEN not in said.out + said.err


def test_large_files_go_to_the_hub_by_lfs(saved, server, monkeypatch):
    """In a process of its own, as its users have it: the switch for that is read when huggingface_hub is imported."""
    pytest.importorskip("huggingface_hub")
    kept = make_hub(server, "me/umx", large=10_000)
    env = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mss.share", "push", str(saved), "hf:me/umx"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert kept["model.safetensors"] == saved.read_bytes()
    sent = [(path.partition("?")[0], headers) for method, path, headers in server.asked if method == "PUT"]
    assert [path for path, _ in sent] == [f"/blobs/{download.sha256_of(saved)}"]
    assert "Authorization" not in sent[0][1]  # the address is signed, and may be another's
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert same(mss.load("hf:me/umx"), tiny())


def test_very_large_files_go_to_the_hub_in_parts(saved, server, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    kept = make_hub(server, "me/umx", large=10_000, part=5000)
    assert share.main(["push", str(saved), "hf:me/umx"]) == 0
    assert kept["model.safetensors"] == saved.read_bytes()
    assert sum(method == "PUT" for method, _, _ in server.asked) == -(-saved.stat().st_size // 5000)


@pytest.mark.parametrize("where", ["/api/repos/create", "/api/models/me/umx/preupload/main", "batch", "PUT", "/verify"])
@pytest.mark.parametrize("code", [401, 403])
def test_a_hub_that_echoes_the_token_is_not_quoted(where, code, saved, server, monkeypatch, capfd, caplog):
    constants = pytest.importorskip("huggingface_hub.constants")
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    make_hub(server, "me/umx", large=1000)

    def echo(handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        sent = handler.headers.get("Authorization", f"Bearer {TOKEN}")
        said = json.dumps({"error": f"{sent} is not allowed, nor is {TOKEN}"}).encode()
        handler.answer(code, said, Content_Type="application/json", X_Error_Message=f"no {sent}")

    if where == "PUT":
        server.files[f"/blobs/{download.sha256_of(saved)}"] = echo
    else:
        server.files["/me/umx.git/info/lfs/objects/batch" if where == "batch" else where] = echo
    if where == "/api/repos/create":  # else it is enough that the repository is there
        server.files["/api/models/me/umx"] = echo
    assert share.main(["push", str(saved), "hf:me/umx"]) == 1
    said = capfd.readouterr()
    assert said.err.startswith(f"error: {server.url}/me/umx: ")
    assert said.err.count("\n") == 1
    assert str(code) in said.err
    for secret in (TOKEN, SIGNATURE, TOKEN[:12]):
        assert secret not in said.out + said.err + caplog.text


def test_a_token_is_taken_out_before_the_message_is_cut():
    for padding in range(300, 420):
        told = remote.without_secrets(ValueError("x" * padding + " " + TOKEN), TOKEN)
        assert TOKEN[:6] not in told


def test_without_huggingface_hub_a_push_says_what_is_missing(saved, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert share.main(["push", str(saved), "hf:me/umx"]) == 2
    assert "pip install mss-separation[hub]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["push", "{}", "https://x.org/a"], ["pull", "{}", "/tmp/x.pt"], ["pull", "{}", "/no/x.safetensors"]]
)
def test_wrong_usage(argv, saved, capsys):
    assert share.main([part.format(saved) for part in argv]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_verb_says_help_at_once():
    code = "import sys, mss.share as verb; verb.parser(); print([n for n in ('torch', 'urllib.request') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
