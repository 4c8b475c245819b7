"""Augmentations: the published distributions, the sound that was asked for, and what none of them may do."""

import math

import pytest
import torch

from mss import spec
from mss.data import augment
from mss.data.augment import (
    Augment,
    ChannelSwap,
    Clip,
    Codec,
    Compression,
    Distortion,
    Drop,
    Equalizer,
    Gain,
    Leak,
    Level,
    LowPass,
    Only,
    Pan,
    PitchTempo,
    Polarity,
    Remix,
    Reverb,
    Shift,
    Speed,
    Width,
)
from mss.data.augment.dynamics import compressed
from mss.data.augment.pitch import pitch_ratio, stretched
from mss.transforms import STFT

RATE = 44100
ALL = {
    "gain": Gain(),
    "gain of the mixture": Gain(together=True),
    "leak": Leak(3),
    "level": Level(rms=(-24, -23, -23, -21)),
    "swap": ChannelSwap(p=1),
    "drop": Drop((1, 3)),
    "polarity": Polarity(p=1),
    "pan": Pan(),
    "width": Width(),
    "remix": Remix(2),
    "shift": Shift(0.1),
    "pitch": PitchTempo(tempi=(0.9, 1.1), p=1),
    "speed": Speed(p=1),
    "equalizer": Equalizer(),
    "low pass": LowPass(),
    "low pass of one": Only(LowPass(), [1]),
    "reverb": Reverb(),
    "compression": Compression(),
    "distortion": Distortion(),
    "codec": Codec(),
    "clip": Clip(),
}
every = pytest.mark.parametrize("name", ALL)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def stems(excerpt):
    """Half seconds of four stems at two places, (2, 4, 2, t)."""
    parts = torch.stack([excerpt[name] for name in ("drums", "bass", "other", "vocals")])
    return torch.stack([parts[..., start : start + 22050] for start in (88200, 132300)])


def tone(frequency: float, length: int = RATE) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(length, dtype=torch.float64) / RATE)


def peak_frequency(x: torch.Tensor) -> float:
    """Hz, to a fraction of a cent: a parabola through the logarithm of the spectrum's peak."""
    n = 8 * len(x)
    X = torch.fft.rfft(x * torch.hann_window(len(x), dtype=x.dtype), n).abs().log()
    i = int(X.argmax())
    a, b, c = X[i - 1 : i + 2].tolist()
    return (i + 0.5 * (a - c) / (a - 2 * b + c)) * RATE / n


@every
def test_contract(name, stems):
    module, before = ALL[name], stems.clone()
    y = module(stems, seeded())
    assert y.shape == stems.shape
    assert y.dtype == stems.dtype
    assert y.isfinite().all()
    assert not torch.equal(y, stems)
    assert torch.equal(stems, before)
    assert y.abs().max() < 10 * stems.abs().max()
    torch.testing.assert_close(module(stems, seeded()), y, rtol=0, atol=0)
    y64 = module(stems.double(), seeded())
    assert y64.dtype == torch.float64
    if name != "codec":  # whose rounding is to whole numbers
        torch.testing.assert_close(y64.float(), y, rtol=1e-3, atol=1e-3)
    assert module(stems.to("meta"), seeded()).shape == stems.shape


@every
def test_silence_stays_silence_and_empty_batches_are_empty(name):
    silence = torch.zeros(2, 4, 2, 9000)
    assert torch.equal(ALL[name](silence, seeded()), silence)
    assert ALL[name](silence[:0], seeded()).shape == (0, 4, 2, 9000)


@every
def test_one_channel_and_few_samples(name, stems):
    assert ALL[name](stems[:, :, :1, :600], seeded()).isfinite().all()


@every
def test_nothing_happens_in_evaluation_or_with_p_0(name, stems):
    rebuilt = spec.build(spec.spec(ALL[name]))
    assert spec.spec(rebuilt) == spec.spec(ALL[name])
    assert rebuilt.eval()(stems, seeded()) is stems
    described = spec.spec(ALL[name])
    described.get("step", described)["p"] = 0.0  # `Only` has one of its step's
    assert spec.build(described)(stems, seeded()) is stems


def test_p_is_how_often(stems):
    x = torch.ones(500, 4, 1, 2)
    for p in (0.25, 0.5):
        changed = (Polarity(p)(x, seeded()) < 0).all(-1).flatten()
        assert abs(changed.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / 2000)
    assert (Polarity(1)(x, seeded()) == -1).all()
    part = Gain(2, 2, p=0.5)(x, seeded())
    assert set(part.unique().tolist()) == {1.0, 2.0}
    assert len(set(part[:, :, 0, 0].mean(1).tolist())) > 2  # stems of an item differ


def test_a_chain_and_its_description(stems):
    chain = Augment([Gain(), ChannelSwap(), Remix(2), Equalizer(decibels=3, p=0.3)])
    again = spec.build(spec.spec(chain))
    assert spec.spec(chain)["steps"][3] == {
        "_target_": "mss.data.augment.Equalizer", "decibels": 3, "sample_rate": 44100, "p": 0.3,
    }  # fmt: skip
    torch.testing.assert_close(again(stems, seeded()), chain(stems, seeded()), rtol=0, atol=0)
    assert chain.eval()(stems, seeded()) is stems


def test_global_random_numbers_are_left_alone(stems):
    state = torch.get_rng_state()
    for module in ALL.values():
        module(stems, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gain_of_a_mixture_is_one_for_all_its_stems(stems):
    y = Gain(2, 3, together=True)(stems, seeded())
    gains = (y / stems).nan_to_num(2.5).flatten(1)
    assert torch.allclose(gains.amin(1), gains.amax(1), atol=1e-5)
    assert len(set(gains[:, 0].tolist())) == len(stems)


def test_a_leak_is_a_trace_of_one_stem_or_nothing():
    gains = Leak(-1, -30, -10, trace=0.25)(torch.ones(4000, 3, 2, 1), seeded())
    assert bool((gains[:, :2] == 1).all())
    trace = gains[:, 2, 0, 0]
    assert abs((trace > 0).float().mean() - 0.25) < 0.03
    decibels = 20 * trace[trace > 0].log10()
    assert decibels.min() > -30.001
    assert decibels.max() < -9.999
    assert abs(decibels.mean() + 20) < 0.7
    assert abs(decibels.var() - 400 / 12) < 3


def test_only_the_stems_that_are_named_are_changed():
    stems = torch.randn(50, 4, 2, 30, generator=seeded())
    changed = Only(Gain(2, 3), [1, 3])(stems, seeded())
    assert bool((changed[:, [0, 2]] == stems[:, [0, 2]]).all())
    ratio = (changed / stems)[:, [1, 3]]
    assert 1.999 < ratio.min() < ratio.max() < 3.001
    kept = Only(LowPass(p=0.4), [1])(stems.repeat(20, 1, 1, 1), seeded())[:, 1] == stems.repeat(20, 1, 1, 1)[:, 1]
    assert abs(kept.all(-1).all(-1).float().mean() - 0.6) < 0.05
    with pytest.raises(ValueError, match=r"stems \[4\] of 4 stems: give their places"):
        Only(Gain(), [4])(stems, seeded())


def test_gain_has_the_published_moments():
    """Uhlich et al. 2017: uniform in [0.25, 1.25]; one for each stem, the same for its channels."""
    g = Gain()(torch.ones(4000, 4, 2, 1), seeded())
    assert torch.equal(g[:, :, 0], g[:, :, 1])
    g = g[:, :, 0].flatten()
    assert abs(g.mean() - 0.75) < 0.01
    assert abs(g.var() - 1 / 12) < 0.003
    assert 0.25 <= g.min() < 0.251
    assert 1.249 < g.max() < 1.25


def test_swap_has_the_published_frequency():
    x = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1).expand(2000, 4, 2, 1)
    first = ChannelSwap()(x, seeded())[:, :, 0].flatten()
    assert abs((first == 2).float().mean() - 0.5) < 0.025


def test_level_is_normal_in_decibels():
    x = torch.ones(3000, 2, 1, 4) * torch.tensor([0.1, 0.5]).view(2, 1, 1)
    db = 20 * Level(4, rms=(-24, -21), most=99)(x, seeded())[:, :, 0, 0].log10()
    torch.testing.assert_close(db.mean(0), torch.tensor([-24.0, -21.0]), atol=0.3, rtol=0)
    torch.testing.assert_close(db.std(0), torch.tensor([4.0, 4.0]), atol=0.3, rtol=0)
    relative = 20 * (Level(4, most=6)(x, seeded()) / x)[:, :, 0, 0].log10()
    assert relative.abs().max() <= 6.0001
    assert abs(relative.mean()) < 0.3
    with pytest.raises(ValueError, match="1 levels for 2 stems"):
        Level(rms=(-20,))(x, seeded())


@pytest.mark.parametrize(("group", "batch"), [(4, 12), (4, 10), (0, 6)])
def test_remix_permutes_each_stem_within_its_group(group, batch):
    x = torch.arange(batch * 3.0).view(batch, 3, 1, 1)
    y, size = Remix(group)(x, seeded()), group or batch
    for first in range(0, batch, size):
        a, b = x[first : first + size], y[first : first + size]
        assert torch.equal(b.sort(0).values, a)
        torch.testing.assert_close(b.sum(0), a.sum(0))
    orders = (y // 3).squeeze()
    assert not torch.equal(orders[:, 0], orders[:, 1])
    if group and batch == 12:
        many = torch.cat([(Remix(group)(x, seeded(i))[0, 0] // 3).flatten() for i in range(400)])
        counts = many.long().bincount(minlength=4)
        assert len(counts) == 4
        assert (counts - 100).abs().max() < 45  # uniform
        some = [bool((Remix(group, p=0.5)(x, seeded(i))[:4] == x[:4]).all()) for i in range(400)]
        assert abs(sum(some) / 400 - (0.5 + 0.5 / 24**3)) < 0.1


def test_shift_moves_stems_by_their_own_time():
    x = torch.zeros(6, 2, 2, 4000)
    x[..., 2000] = 1
    y = Shift(0.03, sample_rate=10000)(x, seeded())
    at = y.argmax(-1)
    assert torch.equal(at[..., 0], at[..., 1])  # the image stands still
    assert len(at[..., 0].unique()) > 6
    assert (at - 2000).abs().max() <= 300
    assert torch.equal(y.sum(-1), torch.ones(6, 2, 2))
    wave = torch.sin(torch.arange(4000.0) / 9).expand(1, 1, 1, -1)
    moved = Shift(0.03, sample_rate=10000)(wave, seeded(1))
    assert moved.diff().abs().max() < 0.14  # no click where the ends meet


@pytest.mark.parametrize("semitones", [-12, -2, -1, 1, 2, 7])
def test_pitch_shift_moves_a_sine(semitones):
    x = 0.5 * tone(440).view(1, 1, 1, -1)
    y = PitchTempo([semitones], p=1)(x, seeded())[0, 0, 0]
    middle = y[8000:-8000]
    cents = 1200 * math.log2(peak_frequency(middle) / 440)
    assert abs(cents - 100 * semitones) < 3
    assert abs(cents - 1200 * math.log2(pitch_ratio(semitones))) < 1
    assert abs(middle.square().mean().sqrt() - 0.5 / math.sqrt(2)) < 0.03


@pytest.mark.parametrize("rate", [0.9, 1.12])
def test_what_is_in_antiphase_is_stretched_as_what_is_not(rate):
    """The sum of the channels is what a dither leaves of it."""
    x = 0.3 * tone(440, 2 * RATE)
    other = -x + 1e-7 * torch.randn(x.shape, dtype=x.dtype, generator=seeded())
    y = stretched(torch.stack([x, other])[None], torch.tensor([rate]).double(), 60000)[0]
    for channel in y[:, 4410:-4410]:
        levels = channel.unfold(-1, 4410, 4410).square().mean(-1).sqrt()
        torch.testing.assert_close(levels, torch.full_like(levels, 0.3 / math.sqrt(2)), rtol=0.01, atol=0)
        assert abs(1200 * math.log2(peak_frequency(channel) / 440)) < 1


def test_tempo_moves_clicks_and_leaves_pitch():
    x = torch.zeros(2, 1, 40000)
    x[..., 20000] = 1
    x[..., -500:] = 0.1
    y = stretched(x, torch.tensor([0.8, 1.25]), 40000)
    assert abs(int(y[0].abs().argmax()) - 25000) < 600
    assert abs(int(y[1].abs().argmax()) - 16000) < 600
    assert y[1, :, 32000:].abs().max() == 0
    slow = PitchTempo([0], [0.8], p=1)(tone(440).view(1, 1, 1, -1), seeded()).flatten()
    assert abs(1200 * math.log2(peak_frequency(slow[8000:-8000]) / 440)) < 1


@pytest.mark.parametrize("factor", [8 / 9, 9 / 8])
def test_speed_moves_pitch_and_time_alike(factor):
    x = 0.5 * tone(440).view(1, 1, 1, -1)
    x[..., 20000:] = 0
    y = Speed([factor], p=1)(x, seeded()).flatten()
    assert abs(peak_frequency(y[2000:16000]) / (440 * factor) - 1) < 1e-3
    end = round(20000 / factor)
    assert y[end - 400 : end - 100].abs().max() > 0.3
    assert y[end + 100 :].abs().max() < 1e-3


def test_speeds_are_drawn_for_each_stem():
    x = tone(440).expand(4, 50, 1, -1)
    y = Speed(p=0.5)(x, seeded()).flatten(0, 1)
    same = (y == x.flatten(0, 1)).all(-1).all(-1)
    assert abs(same.double().mean() - 0.5) < 0.1  # 200 draws: three deviations
    assert len({tuple(row[0, :100].round(decimals=3).tolist()) for row in y[~same]}) == 4


def test_stereo_image_stands_still_when_stretched():
    """Two channels that share most of their noise still do."""
    a, b = torch.randn(2, 40000, generator=seeded())
    y = stretched(torch.stack([a, 0.8 * a + 0.6 * b])[None], torch.tensor([0.9]), 40000)[0, :, 4000:-4000]
    assert abs(torch.corrcoef(y)[0, 1] - 0.8) < 0.06


def test_equalizer_has_the_gains_that_were_drawn():
    eq, like = Equalizer(decibels=9), torch.zeros(1, dtype=torch.float64)
    corners, gains, widths = eq.draw(300, seeded(3), like)
    assert gains.abs().max() <= 9
    assert abs(gains.mean()) < 0.6
    assert abs(gains.var() - 27) < 4  # uniform: 9 ** 2 / 3
    single = torch.tensor([[6.0, 0, 0, 0], [0, -4.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, -6.0]], dtype=torch.float64)
    for row, (gain, low, at, high) in enumerate([(6, 6, 3, 0), (-4, 0, -4, 0), (5, 0, 5, 0), (-6, 0, -3, -6)]):
        corner, frequencies = corners[:1], torch.tensor([1e-3, float(corners[0, row]), 1e8], dtype=torch.float64)
        db = 20 * eq.response(frequencies, corner, single[row : row + 1], widths[:1])[0].log10()
        torch.testing.assert_close(db, torch.tensor([low, at, high], dtype=torch.float64), atol=1e-3, rtol=0)
        assert db.abs().max() <= abs(gain) + 1e-9
    f0 = 2000.0
    x = tone(f0).expand(1, 1, 1, -1)
    y = eq(x, seeded(5))
    after = seeded(5)
    torch.rand(1, generator=after)  # whom to change
    expected = eq.response(torch.tensor([f0], dtype=torch.float64), *eq.draw(1, after, like))
    middle = slice(10000, 30000)
    torch.testing.assert_close(y[..., middle], float(expected) * x[..., middle], atol=1e-4, rtol=0)


def test_reverb_decays_as_long_as_it_says():
    for decay in (0.3, 0.9):
        reverb = Reverb((decay, decay), (0, 0), delay=(0.01, 0.01))
        h = reverb.answer(8, 2, seeded(), torch.zeros(1)).square().sum((0, 1))
        assert h[:440].sum() < 1e-6 * h.sum()
        left = h.flip(0).cumsum(0).flip(0)  # Schroeder's integral
        left = 10 * (left / left[0]).log10()
        t5, t25 = (int((left < level).nonzero()[0]) for level in (-5, -25))
        assert abs(3 * (t25 - t5) / RATE - decay) < 0.06 * decay


def test_reverb_keeps_the_direct_sound_in_place_and_the_level():
    x = torch.zeros(4, 1, 2, 30000)
    x[..., 100] = 1
    y = Reverb((0.3, 0.3), (-6, -6))(x, seeded())
    assert (y.abs().argmax(-1) == 100).all()
    torch.testing.assert_close(y[..., 100], torch.full((4, 1, 2), (1 + 10**-0.6) ** -0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.square().sum(-1), torch.ones(4, 1, 2), atol=1e-3, rtol=0)
    assert y[..., :100].abs().max() < 1e-6
    assert not torch.allclose(y[:, :, 0], y[:, :, 1], atol=1e-3)


def test_compressor_has_its_static_curve():
    level = torch.tensor([-40.0, -23.0, -20.0, -17.0, 0.0])
    out = compressed(level, -20.0, 4.0, 6.0)
    torch.testing.assert_close(out, torch.tensor([-40, -23, -20 - 0.75 * 0.75, -20 + 3 / 4, -20 + 20 / 4]))
    hard = compressed(level, -20.0, 4.0, 0.0)
    torch.testing.assert_close(hard, torch.tensor([-40, -23, -20, -20 + 3 / 4, -20 + 20 / 4]))
    fine = compressed(torch.linspace(-30, 0, 3001, dtype=torch.float64), -20.0, 4.0, 6.0).diff() / 0.01
    assert (fine.diff() <= 1e-9).all()  # its slope falls from 1 to 1/4
    torch.testing.assert_close(fine[[0, -1]], torch.tensor([1, 0.25], dtype=torch.float64))


def test_a_low_pass_falls_by_12_db_per_octave():
    y = LowPass((400, 400))(torch.stack([tone(f) for f in (40, 400, 1600, 3200)]).view(4, 1, 1, -1), seeded())
    levels = 10 * (2 * y.square().mean((1, 2, 3))).log10()
    torch.testing.assert_close(levels, torch.tensor([0, -3.01, -24.1, -36.1], dtype=torch.float64), rtol=0, atol=0.1)


def test_compressor_narrows_a_step_as_its_curve_says():
    """A tone 20 dB louder in its first half: both lie far from the knee, so their distance shrinks by what is above."""
    x = tone(1000, 4 * RATE)
    x[2 * RATE :] *= 0.1
    y = Compression((-10, -10), (4, 4), release=200)(x.view(1, 1, 1, -1), seeded()).flatten()

    def db(z):
        return float(10 * z.square().mean().log10())

    loud, soft = slice(RATE // 2, RATE), slice(3 * RATE, 4 * RATE - RATE // 2)
    rms = db(x)
    expected = (db(x[loud]) - rms + 10) / 4 - 10 - (db(x[soft]) - rms)  # the soft one is below the threshold
    assert abs(db(y[loud]) - db(y[soft]) - expected) < 0.1
    assert abs(db(y) - rms) < 1e-6
    scaled = Compression()(1e-3 * x.view(1, 1, 1, -1), seeded())
    torch.testing.assert_close(scaled, 1e-3 * Compression()(x.view(1, 1, 1, -1), seeded()), rtol=1e-6, atol=1e-9)


def test_an_overdriven_amplifier_adds_harmonics_and_its_loudspeaker_takes_them_away():
    """A tone stays a tone where the drive is low; where it is high, odd partials are those of a square wave: 1/3, 1/5, ..."""
    x = tone(400).view(1, 1, 1, -1)

    def partials(drive, bias, corner):
        y = Distortion((drive, drive), bias, (corner, corner))(x, seeded())
        assert float(y.square().mean().sqrt()) == pytest.approx(float(x.square().mean().sqrt()), rel=1e-6)
        X = torch.fft.rfft(y.flatten()[: RATE // 2]).abs()
        return [float(X[400 * k // 2] / X[200]) for k in (2, 3, 5)]

    assert max(partials(-30, 0, 20000)) < 1e-3
    second, third, fifth = partials(40, 0, 1e6)
    assert second < 1e-3
    assert third == pytest.approx(1 / 3, abs=0.02)
    assert fifth == pytest.approx(1 / 5, abs=0.02)
    assert partials(0, 2.0, 1e6)[0] > 0.01  # a bias makes even ones
    assert partials(40, 0, 1000)[2] == pytest.approx(fifth / (1 + 2**8) ** 0.5, rel=0.05)  # 24 dB per octave
    scaled = Distortion()(1e-3 * x, seeded())
    torch.testing.assert_close(scaled, 1e-3 * Distortion()(x, seeded()), rtol=1e-6, atol=1e-9)


def test_clipped_stems_add_up_to_the_clipped_mixture(stems):
    y = Clip((9, 9))(stems.double(), seeded()).sum(1)
    m = stems.double().sum(1)
    limit = m.abs().amax((-2, -1), keepdim=True) / 10 ** (9 / 20)
    torch.testing.assert_close(y, limit * torch.tanh(m / limit))


def test_codec_cuts_and_keeps_its_noise_below_the_music(stems):
    x = stems[:, 2:3]
    y = Codec((12000, 12000), (15, 15))(x, seeded())
    transform = STFT(2048, 512)
    X, D, Y = (transform(z)[..., 4:-4].abs().square().sum((0, 1, 2, 4)) for z in (x, y - x, y))
    hz = torch.arange(transform.bins) * RATE / 2048
    assert Y[hz > 12300].sum() < 1e-6 * Y.sum()
    heard = (hz > 200) & (hz < 8000)
    ratio = 10 * float((X[heard].sum() / D[heard].sum()).log10())
    assert 13 < ratio < 22
    coarse = Codec((12000, 12000), (3, 3))(x, seeded())
    assert (coarse - x).square().sum() > 4 * (y - x).square().sum()
    silent = (transform(coarse)[..., heard, :].abs() < 1e-5).float().mean()
    assert silent < 0.9


def test_pan_and_width():
    x = torch.tensor([1.0, 1.0]).view(1, 1, 2, 1).expand(500, 2, 2, 1)
    y = Pan(6)(x, seeded()).squeeze()
    torch.testing.assert_close(y.square().sum(-1), torch.full((500, 2), 2.0))
    balance = 20 * (y[..., 0] / y[..., 1]).log10()
    assert balance.abs().max() <= 6.0001
    assert abs(balance.mean()) < 0.4
    mono = Width(0, 0)(torch.randn(2, 2, 2, 50, generator=seeded()), seeded())
    torch.testing.assert_close(mono[:, :, 0], mono[:, :, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gain(p=1.5), "probability"),
        (lambda: Gain(2, 1), "range"),
        (lambda: Remix(-1), "number of items"),
        (lambda: Leak(0, -10, -20), "range in dB"),
        (lambda: Leak(0, trace=2), "probability"),
        (lambda: Leak(4)(torch.ones(2, 4, 2, 10), seeded()), "stem 4 of 4"),
        (lambda: PitchTempo([]), "semitones"),
        (lambda: Speed([]), "factors"),
        (lambda: Speed([0]), "factors"),
        (lambda: PitchTempo(tempi=[0]), "tempi"),
        (lambda: Compression(ratio=(0.5, 2)), "ratio is a range"),
        (lambda: LowPass((0, 100)), "corner is a range"),
        (lambda: Distortion(bias=-1), "bias must be at least 0"),
        (lambda: Distortion(corner=(9000, 100)), "corner is a range"),
        (lambda: Reverb((0, 1)), "decay is a range"),
        (lambda: Equalizer(-1), "decibels"),
        (lambda: Shift(-1), "seconds"),
        (lambda: Gain()(torch.ones(4, 2, 10), seeded()), r"stems \(b, s, c, t\)"),
        (lambda: Gain()(torch.ones(1, 4, 2, 10, dtype=torch.int16), seeded()), "floating point"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_are_exported_and_tested():
    classes = {name for name in augment.__all__ if name not in ("Augment", "Augmentation")}
    assert classes == {type(module).__name__ for module in ALL.values()}


def test_drop_leaves_as_many_stems_as_it_should_each_as_often():
    x = Drop((1, 3))(torch.ones(6000, 4, 1, 1), seeded()).flatten(1)
    assert x.unique().tolist() == [0, 1]
    left = x.sum(1).long().bincount()
    assert left[0] == 0
    assert (left[1:].double() / 6000 - 1 / 3).abs().max() < 0.03
    assert (x.mean(0) - 0.5).abs().max() < 0.03  # no stem is dropped more often than another
