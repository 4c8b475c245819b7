"""mss.metrics against museval on real music, the identities of BSS Eval, and inputs on which no score means anything.

The references are quantised to 16 bits, as on a CD or in MUSDB18-HQ. Straight from a float AAC decoder they have
nothing above 16 kHz, their Gram matrix has a condition number of 1e16, and museval then differs from itself by 0.01 dB
when the sources are merely reordered: `test_low_passed_references` keeps an eye on that case.
"""

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mss.metrics import _compiled, _energies, _filters, bss_eval, is_silent, sd_sdr, si_sar, si_sdr, si_sir, snr, usdr
from tests.conftest import ROOT

MEASURES = ("sdr", "isr", "sir", "sar")
SHARED = Path(os.environ.get("MSS_DATA", ROOT.parent / "shared")) / "musdb7" / "test"


@pytest.fixture(scope="module")
def museval():
    """museval/metrics.py alone: the package imports stempeg, which wants an ffmpeg binary."""
    spec = importlib.util.find_spec("museval")
    if spec is None:
        pytest.skip("museval is not installed")
    path = Path(spec.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decode(path: Path) -> torch.Tensor:
    """The five streams of a stem file: mixture, drums, bass, other, vocals (5, 2, t) float64."""
    av = pytest.importorskip("av")
    streams = []
    for i in range(5):
        with av.open(str(path)) as file:
            streams.append(np.concatenate([f.to_ndarray() for f in file.decode(file.streams.audio[i])], 1))
    return torch.from_numpy(np.stack(streams)).double()


def cd(x: torch.Tensor) -> torch.Tensor:
    return (x * 32768).round() / 32768


def masked(mixture: torch.Tensor, stems: torch.Tensor) -> torch.Tensor:
    """Crude estimates (n, 2, t): the mixture through noisy ratio masks."""
    window = torch.hann_window(2048, dtype=torch.float64)
    X = torch.stft(mixture, 2048, 512, window=window, return_complex=True)
    V = torch.stft(stems.flatten(0, 1), 2048, 512, window=window, return_complex=True).abs().unflatten(0, (-1, 2))
    noise = torch.randn(V.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    V = V * (0.5 * noise).exp()
    Y = V / (V.sum(0) + 1e-9) * X
    return torch.istft(Y.flatten(0, 1), 2048, 512, window=window, length=mixture.shape[-1]).reshape(stems.shape)


@pytest.fixture(scope="module")
def excerpt():
    """Six seconds of a song (raw streams) that ships with stempeg."""
    spec = importlib.util.find_spec("stempeg")
    if spec is None:
        pytest.skip("stempeg is not installed")
    return decode(next((Path(spec.submodule_search_locations[0]) / "data").glob("*.mp4")))


@pytest.fixture(scope="module")
def four(excerpt):
    """References and estimates (4, 2, t)."""
    stems = cd(excerpt[1:])
    return stems, masked(cd(excerpt[0]), stems)


@pytest.fixture(scope="module")
def two(four):
    """Vocals and accompaniment, four seconds and a bit (2, 2, t)."""
    return tuple(torch.stack((x[3], x[:3].sum(0)))[..., : 4 * 44100 + 100].contiguous() for x in four)


def agree(museval, references, estimates, tolerance=1e-6, *, ours=None, **theirs):
    """Compare all four measures, frames and NaN pattern; returns our result."""
    theirs = {"window": 44100, "hop": 44100} | theirs
    names = {"filters_len": "filter_length", "bsseval_sources_version": None}
    options = {names.get(k, k): v for k, v in theirs.items() if names.get(k, k)} | (ours or {})
    result = bss_eval(references, estimates, **options)
    expected = museval.bss_eval(references.mT.numpy(), estimates.mT.numpy(), **theirs)
    for name, got, want in zip((*MEASURES, "perm"), result, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=tolerance, err_msg=name)
    return result


# ---------------------------------------------------------------------------------------- against museval


def test_v4_as_museval(museval, four):
    result = agree(museval, *four)
    assert result.sdr.shape == (4, 6)  # the last, partial second is dropped
    assert result.sir.isfinite().all()


@pytest.mark.parametrize(
    ("window", "hop"),
    [(50000, 20000), (20000, 50000), (150000, 10000), (4 * 44100 + 100, 7), (math.inf, math.inf)],
    ids=["overlapping", "gaps", "long", "just one", "whole track"],
)
def test_framing_as_museval(museval, two, window, hop):
    agree(museval, *two, window=window, hop=hop, filters_len=128)


def test_v3_as_museval(museval, two):
    options = {"window": 60000, "hop": 30000, "filters_len": 128, "framewise_filters": True}
    explicit = agree(museval, *two, **options)
    named = bss_eval(*two, window=60000, hop=30000, filter_length=128, mode="v3")
    assert all(torch.equal(a, b) for a, b in zip(explicit, named, strict=True))


def test_v3_windows_of_the_campaigns(museval, two):
    """30 s windows, 15 s hop: mono, the excerpt repeated, few taps, to keep museval's time short."""
    two = [x.mean(1, keepdim=True).tile(12)[..., : 45 * 44100].contiguous() for x in two]
    result = agree(museval, *two, window=30 * 44100, hop=15 * 44100, filters_len=64, framewise_filters=True)
    assert result.sdr.shape == (2, 2)


def test_sources_version_as_museval(museval, two):
    result = agree(museval, *two, filters_len=128, bsseval_sources_version=True, ours={"variant": "sources"})
    assert result.isr.isnan().all()


@pytest.mark.parametrize("framewise", [False, True])
def test_permutation_as_museval(museval, four, framewise):
    references, estimates = (x[..., 44100 : 2 * 44100 + 22050] for x in four)
    order = [2, 0, 3, 1]
    result = agree(
        museval,
        references,
        estimates[order],
        filters_len=32,
        window=30000,
        hop=15000,
        compute_permutation=True,
        framewise_filters=framewise,
    )
    assert [order[i] for i in result.perm[:, 0]] == [0, 1, 2, 3]


def test_permutation_despite_silent_frames(two):
    """One silent frame makes museval return the identity; the others say clearly what belongs where."""
    references, estimates = (x.clone() for x in two)
    estimates[0, :, :44100] = 0
    result = bss_eval(references, estimates.flip(0), filter_length=16, compute_permutation=True)
    assert result.perm.tolist() == [[1], [0]]
    assert result.sdr[:, 0].isnan().all()
    assert result.sdr[:, 1:].isfinite().all()


@pytest.mark.parametrize("which", ["reference", "estimate", "anti-phase"])
def test_silent_frames_as_museval(museval, two, which):
    references, estimates = (x.clone() for x in two)
    if which == "reference":
        references[0, :, 44000:140000] = 0
    elif which == "estimate":
        estimates[1, :, 44000:140000] = 0
    else:
        references[0, 1, 44000:140000] = -references[0, 0, 44000:140000]
    references, estimates = references[..., :150000], estimates[..., :150000]
    for window, hop in ((44100, 22050), (140000, 10000)):  # whole-frame spectra, and segments
        result = agree(museval, references, estimates, window=window, hop=hop, filters_len=32)
    silent = bss_eval(references, estimates, hop=22050, filter_length=32).sdr.isnan()
    assert silent.tolist() == [[False, False, True, True, True]] * 2
    assert result.sdr.isfinite().all()


@pytest.mark.parametrize("case", ["mono-as-stereo", "hard panned", "one source", "mono", "shorter than a window"])
def test_odd_signals_as_museval(museval, two, case):
    references, estimates = (x.clone() for x in two)
    if case == "mono-as-stereo":  # singular Gram matrix
        references = references[:, :1].expand_as(references).contiguous()
    elif case == "hard panned":  # rows of zeros
        references[0, 1] = 0
    elif case == "one source":
        references, estimates = references[:1], estimates[:1]
    elif case == "mono":
        references, estimates = references.mean(1, keepdim=True), estimates.mean(1, keepdim=True)
    else:
        references, estimates = references[..., :30000].contiguous(), estimates[..., :30000].contiguous()
    result = agree(museval, references, estimates, filters_len=64)
    assert (result.sir == math.inf).all() == (case == "one source")


def test_identical_references(museval, two):
    """P_j y = P y: no interference at all, and both tools show their rounding noise; the rest agrees."""
    references = two[0][:1].expand_as(two[0]).contiguous()
    result = bss_eval(references, two[1], filter_length=64)
    expected = museval.bss_eval(references.mT.numpy(), two[1].mT.numpy(), 44100, 44100, filters_len=64)
    for i in (0, 1, 3):
        np.testing.assert_allclose(result[i].numpy(), expected[i], rtol=0, atol=1e-6)
    assert (result.sir > 90).all()
    assert (expected[2] > 90).all()


def test_low_passed_references(museval, excerpt):
    """Float AAC: SDR exact, the filters as good as double precision allows on either side."""
    excerpt = excerpt[..., : 3 * 44100]
    stems = torch.stack((excerpt[4], excerpt[1:4].sum(0)))
    estimates = masked(excerpt[0], stems)
    result = bss_eval(stems, estimates)
    expected = museval.bss_eval(stems.mT.numpy(), estimates.mT.numpy(), 44100, 44100)
    for got, want, tolerance in zip(result, expected[:4], (1e-9, 0.01, 0.2, 0.2), strict=False):
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=tolerance)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no MUSDB18 excerpts: set MSS_DATA to the folder holding musdb7")
def test_another_song_as_museval(museval):
    streams = cd(decode(sorted(SHARED.glob("*.stem.mp4"))[-1])[..., 60000:200000])
    stems = torch.stack((streams[4], streams[1:4].sum(0)))
    agree(museval, stems, cd(masked(streams[0], stems)), hop=30000, filters_len=256)


# ---------------------------------------------------------------------------------------------- identities


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_perfect_estimate():
    s = noise(2, 2, 20000)
    result = bss_eval(s, s.clone(), window=10000, hop=10000, filter_length=16)
    assert (result.sdr == math.inf).all()
    assert (torch.stack(result[1:4]) > 200).all()


def test_independent_noise_is_an_artefact():
    s, e = noise(2, 1, 100000), noise(2, 1, 100000, seed=1)
    result = bss_eval(s, s + 0.1 * e, window=100000, filter_length=32)
    torch.testing.assert_close(result.sdr, result.sar, atol=0.1, rtol=0)
    torch.testing.assert_close(result.sdr, torch.full_like(result.sdr, 20.0), atol=0.1, rtol=0)


@pytest.mark.parametrize("window", [20000, 140000])
def test_filtered_source_has_no_interference(two, window):
    h = torch.tensor([0.6, 0.0, -0.3, 0.2], dtype=torch.float64)
    s = two[0].clone()
    s[..., -4:] = 0  # or the end of the estimate would miss the filter's tail
    y = sum(h[i] * torch.nn.functional.pad(s, (i, 0))[..., : s.shape[-1]] for i in range(4))
    result = bss_eval(s, y, window=math.inf if window == 140000 else window, hop=window, filter_length=32)
    # a frame cut out of a filtered track begins with the tail of what came before: only the whole track is clean
    assert (result.sir > 80).all()
    assert (result.sdr < 20).all()
    assert (result.isr < 20).all()
    if window == 140000:
        assert (result.sar > 80).all()


def test_half_the_level():
    s = noise(2, 2, 30000)
    result = bss_eval(s, 0.5 * s, window=10000, hop=10000, filter_length=16)
    expected = torch.full_like(result.sdr, 20 * math.log10(2))
    torch.testing.assert_close(result.sdr, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(result.isr, expected, atol=1e-9, rtol=0)


def test_images_sdr_is_the_plain_snr(two):
    result = bss_eval(*two, window=math.inf, hop=math.inf, filter_length=16)
    torch.testing.assert_close(result.sdr[:, 0], snr(*two), atol=1e-9, rtol=0)


def test_segments_and_whole_frames_agree(two, monkeypatch):
    """The two ways to the energies of a frame, across many segments and chunks."""
    whole = bss_eval(*two, window=60000, hop=30000, filter_length=64)
    monkeypatch.setattr("mss.metrics._energies.LONG_FRAME", 0)
    monkeypatch.setattr("mss.metrics._energies.WORKSPACE", 1 << 14)
    monkeypatch.setattr("mss.metrics._filters.WORKSPACE", 1 << 14)
    monkeypatch.setattr("mss.metrics._blocks.BLOCK", 1 << 10)
    parts = bss_eval(*two, window=60000, hop=30000, filter_length=64)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"mode": "v3"}, {"compute_permutation": True}])
def test_batch_equals_one_by_one(options):
    s = noise(2, 3, 2, 2, 6000)
    y = s + 0.3 * s.flip(-3) + 0.1 * noise(2, 3, 2, 2, 6000, seed=1)
    options = {"window": 2000, "hop": 1000, "filter_length": 8} | options
    together = bss_eval(s, y, **options)
    assert together.sdr.shape == (2, 3, 2, 5)
    for i in range(2):
        for j in range(3):
            alone = bss_eval(s[i, j], y[i, j], **options)
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[i, j], b, atol=1e-9, rtol=0)


def test_loudness_does_not_matter(two):
    options = {"window": 44100, "hop": 44100, "filter_length": 64}
    plain, quiet = bss_eval(*two, **options), bss_eval(*(x / 64 for x in two), **options)
    for a, b in zip(plain[:4], quiet[:4], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_inputs_stay_and_float32_is_enough(two):
    single = [x.float() for x in two]
    copies = [x.clone() for x in single]
    result = bss_eval(*single, filter_length=64)
    assert all(torch.equal(a, b) for a, b in zip(single, copies, strict=True))
    assert result.sdr.dtype == torch.float64
    exact = bss_eval(*(x.double() for x in single), filter_length=64)
    torch.testing.assert_close(result.sir, exact.sir, atol=1e-9, rtol=0)


def test_no_graph_and_threads_restored(two):
    threads = torch.get_num_threads()
    result = bss_eval(two[0], two[1].clone().requires_grad_(), filter_length=16)
    assert not result.sdr.requires_grad
    assert torch.get_num_threads() == threads


# ----------------------------------------------------------------------------------------- plain ratios


RATIOS = (snr, usdr, si_sdr, sd_sdr, si_sir, si_sar)


@pytest.fixture
def mixed():
    s = noise(2, 3, 2, 5000)
    return s, 0.7 * s + 0.2 * s.sum(-3, keepdim=True) + 0.1 * noise(2, 3, 2, 5000, seed=1)


def test_definitions(mixed):
    s, y = (x[0, 0].flatten() for x in mixed)
    alpha = (s @ y) / (s @ s)
    db = lambda a, b: 10 * math.log10((a @ a) / (b @ b))  # noqa: E731
    assert snr(*mixed)[0, 0].item() == pytest.approx(db(s, s - y))
    assert si_sdr(*mixed)[0, 0].item() == pytest.approx(db(alpha * s, alpha * s - y))
    assert sd_sdr(*mixed)[0, 0].item() == pytest.approx(db(alpha * s, s - y))
    mdx = 10 * math.log10(((s @ s) + 1e-7) / ((s - y) @ (s - y) + 1e-7))
    assert usdr(*mixed)[0, 0].item() == pytest.approx(mdx)


def test_errors_add_up(mixed):
    """Interference and artefacts are orthogonal: the error of SI-SDR is the sum of theirs."""
    linear = lambda x: 10 ** (-x / 10)  # noqa: E731
    torch.testing.assert_close(linear(si_sdr(*mixed)), linear(si_sir(*mixed)) + linear(si_sar(*mixed)))


def test_whole_track_sir_is_bss_eval_with_one_tap():
    """With mono signals and filters of one tap the sources version of BSS Eval is the scale-invariant triple."""
    s = noise(3, 1, 5000)
    y = s + 0.3 * s.sum(0) + 0.2 * noise(3, 1, 5000, seed=1)
    result = bss_eval(s, y, window=math.inf, filter_length=1, variant="sources")
    torch.testing.assert_close(result.sdr[:, 0], si_sdr(s, y))
    torch.testing.assert_close(result.sir[:, 0], si_sir(s, y))


@pytest.mark.parametrize("ratio", RATIOS)
def test_ratios_batch_and_dtype(ratio, mixed):
    together = ratio(*mixed)
    assert together.shape == (2, 3)
    torch.testing.assert_close(together, torch.stack([ratio(s, y) for s, y in zip(*mixed, strict=True)]))
    single = ratio(*(x.float() for x in mixed))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [si_sdr, si_sir, si_sar])
def test_scale_invariant(ratio, mixed):
    s, y = mixed
    for scaled in (ratio(s, 1e-3 * y), ratio(1e3 * s, y), ratio(s, -y)):
        torch.testing.assert_close(scaled, ratio(s, y))


@pytest.mark.parametrize("ratio", [snr, sd_sdr])
def test_scale_dependent(ratio, mixed):
    s, y = mixed
    torch.testing.assert_close(ratio(3 * s, 3 * y), ratio(s, y))
    assert (ratio(s, 0.1 * y) < ratio(s, y)).all()


def test_zero_mean(mixed):
    s, y = mixed
    torch.testing.assert_close(si_sdr(s + 1, y - 2, zero_mean=True), si_sdr(s, y, zero_mean=True))
    assert (si_sdr(s + 1, y - 2) < si_sdr(s, y)).all()


@pytest.mark.parametrize("ratio", RATIOS)
def test_gradients(ratio):
    s = noise(2, 1, 20)
    y = (s + 0.3 * noise(2, 1, 20, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: ratio(s, y), y)


@pytest.mark.parametrize("ratio", [snr, si_sdr, sd_sdr])
def test_silent_reference_is_nan_and_harms_no_gradient(ratio, mixed):
    s, y = mixed[0].clone(), mixed[1].clone().requires_grad_()
    s[0, 1] = 0
    result = ratio(s, y)
    assert result.isnan().nonzero().tolist() == [[0, 1]]
    result.nanmean().backward()
    assert y.grad.isfinite().all()
    assert (y.grad[0, 1] == 0).all()
    assert (y.grad[0, 0] != 0).any()


@pytest.mark.parametrize("ratio", [snr, si_sdr, sd_sdr])
def test_a_perfect_estimate_harms_no_gradient_of_the_others(ratio):
    s = noise(2, 1, 20)
    y = s + 0.3 * noise(2, 1, 20, seed=1)
    y[0] = s[0]
    y.requires_grad_()
    result = ratio(s, y)
    assert result.isinf().tolist() == [True, False]
    result.clamp_max(30).mean().backward()
    assert y.grad.isfinite().all()
    assert (y.grad[0] == 0).all()
    assert (y.grad[1] != 0).any()


def test_silence_and_perfection_in_the_ratios(mixed):
    s = mixed[0]
    silence = torch.zeros_like(s)
    assert (si_sdr(s, s) == math.inf).all()
    assert all(ratio(s, silence).isnan().all() for ratio in (si_sdr, sd_sdr, si_sir, si_sar))
    assert (snr(s, silence) == 0).all()
    assert (usdr(silence, silence) == 0).all()
    broken = s.clone()
    broken[0, 0, 0, 7] = math.nan
    broken[1, 2, 0, 7] = math.inf
    for ratio in (snr, usdr, si_sdr, sd_sdr):
        assert ratio(s, broken).isnan().nonzero().tolist() == [[0, 0], [1, 2]]


# -------------------------------------------------------------------------------------------- bad input


def wrong(kind: str) -> tuple[torch.Tensor, torch.Tensor, dict]:
    s, y = noise(2, 2, 4000), noise(2, 2, 4000, seed=1)
    options = {"window": 1000, "hop": 1000, "filter_length": 8}
    if kind == "lengths":
        y = y[..., :-1]
    elif kind == "axes":
        s, y = s.mT, y.mT
    elif kind == "mono without channels":
        s, y = s[0], y[0]
    elif kind == "empty":
        s, y = s[..., :0], y[..., :0]
    elif kind == "integers":
        s, y = s.int(), y.int()
    elif kind == "NaN":
        y[1, 1, 5] = math.nan
    elif kind == "Inf":
        s[1, 1, 5] = -math.inf
    elif kind == "silent reference":
        s[1] = 0
    elif kind == "silent estimate":
        y[0] = 0
    elif kind == "anti-phase":
        y[0, 1] = -y[0, 0]
    else:
        name, value = kind.split("=")
        options[name] = value if name in ("mode", "variant") else float(value)
    return s, y, options


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lengths", r"one shape.*4000.*3999.*trim or pad"),
        ("axes", r"4000 channels of 2 samples; swap"),
        ("mono without channels", r"got shape \(2, 4000\).*channel axis"),
        ("empty", r"non-empty"),
        ("integers", r"floating-point audio, got torch.int32"),
        ("NaN", r"estimates: contains NaN or Inf"),
        ("Inf", r"references: contains NaN or Inf"),
        ("silent reference", r"references: source \[1\] is silent.*leave it out"),
        ("silent estimate", r"estimates: source \[0\] is silent"),
        ("anti-phase", r"estimates: source \[0\] is silent"),
        ("window=0", r"window: expected a whole number"),
        ("window=nan", r"window: expected a whole number"),
        ("hop=10.5", r"hop: expected a whole number.*10.5"),
        ("hop=inf", r"hop=math.inf needs"),
        ("filter_length=0", r"filter_length"),
        ("mode=v5", r"mode: expected.*v5"),
        ("variant=image", r"variant: expected.*image"),
    ],
)
def test_bad_input(kind, message):
    s, y, options = wrong(kind)
    with pytest.raises(ValueError, match=message):
        bss_eval(s, y, **options)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", ["lengths", "axes", "integers", "mono without channels"])
def test_bad_input_of_the_ratios(ratio, kind):
    with pytest.raises(ValueError, match=r"expected|one shape"):
        ratio(*wrong(kind)[:2])


def test_too_many_orders():
    s = noise(9, 1, 100)
    with pytest.raises(ValueError, match="at most 8 sources, got 9"):
        bss_eval(s, s, filter_length=4, compute_permutation=True)


def test_seven_sources():
    s = noise(7, 1, 8000)
    order = [3, 6, 0, 1, 5, 2, 4]
    y = (s + 0.2 * s.sum(0))[order]
    result = bss_eval(s, y, window=4000, hop=4000, filter_length=8, compute_permutation=True)
    assert [order[i] for i in result.perm[:, 0]] == list(range(7))
    assert result.sir.shape == (7, 2)


def test_is_silent():
    x = noise(2, 3, 2, 100)
    x[0, 1] = 0
    x[1, 2, 1] = -x[1, 2, 0]
    assert is_silent(x).nonzero().tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("variant", ["images", "sources"])
def test_compiled_sums_equal_those_of_other_devices(generator, variant, every):
    """On a CPU both sums over bins are code of their own; bins are no multiple of its tiles."""
    n, c, m, f = 3, 2, 5, 300
    X = torch.randn(2 * n * c, m, f, dtype=torch.complex128, generator=generator)
    P = torch.randn(n, c, n * c, f, dtype=torch.complex128, generator=generator)
    Pj = torch.randn(n, n if every else 1, c, c, f, dtype=torch.complex128, generator=generator)
    ours = _compiled.frame_energies(X.numpy(), P.numpy(), Pj.numpy(), variant == "images")
    theirs = _energies._filtered(X, *_energies._project(X[: n * c], (P, Pj)), variant, every)
    assert torch.allclose(torch.from_numpy(ours), theirs, rtol=1e-12)

    R = torch.zeros(2, n * c, 2 * n * c, f, dtype=torch.complex128)
    _compiled.add_products(X[: n * c].numpy(), X.numpy(), R[0].numpy(), False)
    _filters._add_products(torch.device("meta"))(X[: n * c], X, R[1], False)
    assert torch.allclose(*R, rtol=1e-12)
    upper = torch.zeros_like(R[0])
    _compiled.add_products(X[: n * c].numpy(), X.numpy(), upper.numpy(), True)
    assert torch.allclose(upper[:, : n * c], R[0][:, : n * c].permute(2, 0, 1).triu().permute(1, 2, 0), rtol=1e-12)
