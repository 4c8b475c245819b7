"""What a step computes, schedules, averages, orders, the files that are kept: known answers, without a command line."""

from functools import partial

import lightning
import pytest
import torch
from torch import nn

import mss
from mss import checkpoint
from mss.apps.plots import learning_figure
from mss.filters import softmask
from mss.training import Step, setup
from mss.training.callbacks import BestSeparator, spectrogram
from mss.training.losses import LOSSES
from mss.training.module import DivergedError, Training, best_order
from tests.test_nets import SEPARATORS, TARGETS

STEMS = ("drums", "bass", "other", "vocals")


class Half(nn.Module):
    """Every target has a share of the mixture's magnitude; the shares are learned."""

    def __init__(self, start=(0.5, 0.5)):
        super().__init__()
        self.start = tuple(start)
        self.share = nn.Parameter(torch.tensor(start))

    def forward(self, X):
        return self.share.view(1, -1, 1, 1, 1) * X.abs().unsqueeze(1)


def separator(start=(0.5, 0.5)):
    return mss.SpectralSeparator(
        Half(start), ("vocals", "accompaniment"), transform=mss.STFT(512, 128), filter=softmask
    )


@pytest.fixture
def stems(generator):
    return torch.randn(3, 4, 2, 4000, generator=generator)


def test_the_frames_of_a_step_see_nothing_beyond_the_excerpt(stems):
    step = Step(separator(), stems[:, :2], stems.sum(1))
    window = torch.hann_window(512)
    expected = torch.stft(stems.sum(1).flatten(0, 1), 512, 128, window=window, center=False, return_complex=True)
    assert torch.equal(step.X, expected.unflatten(0, (3, 2)))
    assert step.S.shape == (3, 2, *expected.unflatten(0, (3, 2)).shape[1:])


def test_references_are_the_sources_where_all_frames_lie_within(stems):
    step = Step(separator(), stems[:, :2], stems.sum(1))
    inner = slice(512, -512)
    assert (step.references - stems[:, :2])[..., inner].abs().max() < 1e-5
    halves = (step.estimates - stems.sum(1, keepdim=True) / 2)[..., inner]
    assert halves.abs().max() < 1e-5


def test_excerpts_shorter_than_a_window_are_refused(stems):
    with pytest.raises(ValueError, match="train on longer ones"):
        _ = Step(separator(), stems[:, :2, :, :500], stems.sum(1)[..., :500]).X


def test_masks_are_shares_of_the_mixture(stems):
    masks = Step(separator((0.25, 0.75)), stems[:, :2], stems.sum(1)).masks
    heard = masks[:, 0][masks[:, 0] > 0]
    assert torch.allclose(heard, torch.tensor(0.25), atol=1e-5)


def rates(name, steps, **options):
    """The learning rate at each step, times that of the start."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = setup.schedule_of(name, options)(optimizer, steps)["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_have_their_shapes():
    cosine = rates("cosine", 110, warmup=10)
    assert cosine[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert cosine[10] == pytest.approx(1)
    assert cosine[60] == pytest.approx(0.5)
    assert cosine[109] < 0.001
    assert rates("exponential", 3, gamma=0.5) == pytest.approx([1, 0.5, 0.25])
    assert rates("constant", 4, warmup=2) == pytest.approx([0.5, 1, 1, 1])
    with pytest.raises(ValueError, match="max_epochs"):
        setup.schedule_of("cosine", {})(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), float("inf"))


def test_plateau_waits_as_long_as_open_unmix():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    found = setup.schedule_of("plateau", {})(optimizer, 10)
    assert found["monitor"] == "valid/loss"
    for _ in range(82):
        found["scheduler"].step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_anonymous_estimates_are_scored_in_their_best_order(generator):
    s = torch.randn(1, 3, 2, 500, generator=generator)
    noisy = s + 0.1 * torch.randn(s.shape, generator=generator)
    shuffled = torch.cat([torch.zeros_like(s[:, :1]), noisy[:, [2, 0, 1]]], 1)
    assert torch.equal(best_order(s, shuffled), noisy)


class Songs(lightning.LightningDataModule):
    """Two batches, and one song."""

    def __init__(self, stems):
        super().__init__()
        self.stems = stems

    def train_dataloader(self):
        return torch.utils.data.DataLoader([self.stems, self.stems], batch_size=None)

    def val_dataloader(self):
        song = {"mixture": self.stems[:1].sum(1), "stems": self.stems[:1]}
        return torch.utils.data.DataLoader([song], batch_size=None)


def fit(module, data, tmp_path, callbacks=(), epochs=1, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), default_root_dir=tmp_path, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


def module(one, **options):
    return Training(one, {"magnitude_l1": (1.0, LOSSES["magnitude_l1"])}, STEMS, **options)


def test_targets_are_sums_of_stems_and_songs_are_scored_whole(stems, tmp_path):
    trainer = fit(module(separator((0.3, 0.7)), optimizer=lambda p: torch.optim.SGD(p, lr=0.0)), Songs(stems), tmp_path)
    vocals, rest = stems[0, 3], stems[0, :3].sum(0)
    x = vocals + rest
    for name, share, target in (("vocals", 0.3, vocals), ("accompaniment", 0.7, rest)):
        expected = 10 * torch.log10(target.square().sum() / (target - share * x).square().sum())
        assert trainer.callback_metrics[f"valid/sdr/{name}"] == pytest.approx(float(expected), abs=1e-3)


def test_the_best_file_has_the_averaged_weights_of_the_best_epoch(stems, tmp_path):
    network = mss.nets.BLSTM(257, hidden=4, layers=1)
    one = mss.SpectralSeparator(mss.nets.Magnitudes([network]), ("vocals",), transform=mss.STFT(512, 128))
    steps = [network.output_scale.detach().clone()]

    class Watch(lightning.Callback):
        def on_train_batch_end(self, *_):
            steps.append(network.output_scale.detach().clone())

    data, path = Songs(stems), tmp_path / "best.safetensors"
    data.mixtures = lambda: [stems[:1].sum(1)]
    best = BestSeparator(path, metadata={"licence": "MIT"})
    sgd = partial(torch.optim.SGD, lr=0.01)
    fit(module(one, optimizer=sgd), data, tmp_path, [best, Watch(), setup.average(0.5)])
    header = checkpoint.read_header(path)
    assert header["licence"] == "MIT"
    assert header["metrics"]["step"] == 2
    # the average starts at the first weights it sees, those after the first step
    expected = 0.5 * steps[1] + 0.5 * steps[2]
    kept = mss.load(path).estimator.networks[0].output_scale
    assert torch.allclose(kept, expected, atol=1e-6)
    assert not torch.allclose(kept, steps[2], atol=1e-6)


def test_the_best_is_the_last_where_epochs_are_watched(stems, tmp_path):
    network = mss.nets.BLSTM(257, hidden=4, layers=1)
    one = mss.SpectralSeparator(mss.nets.Magnitudes([network]), ("vocals",), transform=mss.STFT(512, 128))
    data = Songs(stems)
    data.mixtures = lambda: [stems[:1].sum(1)]
    uphill = partial(torch.optim.SGD, lr=0.01, maximize=True)  # each epoch is worse than the one before
    for name, watched, kept in (("last", {"monitor": "epoch", "mode": "max"}, 2), ("best", {}, 0)):
        path = tmp_path / f"{name}.safetensors"
        best = BestSeparator(path, **watched, metadata={})
        fit(module(one, optimizer=uphill), data, tmp_path, [best], epochs=3)
        assert checkpoint.read_header(path)["metrics"]["epoch"] == kept


def test_augmentation_depends_on_seed_step_and_nothing_else(stems, tmp_path):
    seen = []

    def record(stems, generator):
        seen.append(float(torch.rand(1, generator=generator)))
        return stems

    for seed in (0, 0, 1):
        torch.manual_seed(len(seen))  # another state of the global generator
        fit(module(separator(), augment=record, seed=seed), Songs(stems), tmp_path, epochs=2)
    first, again, other = seen[:4], seen[4:8], seen[8:]
    assert first == again
    assert len({*first, *other}) == 8


def test_a_loss_of_nan_ends_training(stems, tmp_path):
    stems = stems.clone()
    stems[1, 0, 0, 2000] = float("nan")
    with pytest.raises(DivergedError, match="magnitude_l1"):
        fit(module(separator()), Songs(stems), tmp_path)


def test_spectrograms_show_a_tone_where_it_is():
    t = torch.arange(44100) / 44100
    picture = spectrogram(torch.sin(2 * torch.pi * 1076.66 * t)[None])[0]  # the middle of bin 100
    assert picture.min() >= 0
    assert picture.max() == 1
    assert picture[:, 20].argmax() == 2048 - 100


def test_learning_curves_are_drawn_and_none_is_refused():
    figure = learning_figure({"a": {"loss": [(0, 2.0), (1, 1.0)]}, "b": {"loss": [(0, 3.0)], "SDR": [(0, 1.0)]}})
    first, second = figure.axes
    assert [line.get_label() for line in first.lines] == ["a", "b"]
    assert first.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert [line.get_label() for line in second.lines] == ["b"]
    with pytest.raises(ValueError, match="no curves"):
        learning_figure({})


def guided():
    guide = mss.nets.GuidedTCN(shares, 2, bins=257, channels=2, hidden=16, dilations=(1, 2), maps=4)
    return mss.SpectralSeparator(guide, ("vocals", "accompaniment"), transform=mss.STFT(512, 128), filter=softmask)


def shares(magnitude):
    """The simplest guide: both targets alike."""
    return torch.stack([magnitude / 2, magnitude / 2], 1)


MIXED = {name: (SEPARATORS[name], ("magnitude_l1", "si_sdr")) for name in ("fcn softmax", "blstm", "spleeter")} | {
    "conv-tasnet": (SEPARATORS["conv-tasnet"], ("si_sdr",)),
    "guided": (guided, ("magnitude_l1", "si_sdr")),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_is_for_the_network_alone(name, stems, tmp_path):
    make, losses = MIXED[name]
    found, seen = {}, {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        one = make()
        kinds = seen[precision] = set()
        for layer in one.modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)):

                def note(layer, given, y, kinds=kinds):
                    kinds.add(((y[0] if isinstance(y, tuple) else y).dtype, layer.training))

                layer.register_forward_hook(note)
        module = Training(
            one, {name: (1.0, LOSSES[name]) for name in losses}, STEMS, augment=in_full, classes=TARGETS,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        )  # fmt: skip
        data = Songs(stems)
        data.mixtures = lambda: [stems[:1].sum(1)]
        found[precision] = fit(module, data, tmp_path, precision=precision).callback_metrics
    assert (torch.bfloat16, True) in seen["bf16-mixed"]
    assert (torch.bfloat16, False) not in seen["bf16-mixed"]  # scored as it will be used
    assert {kind for kind, _ in seen["32-true"]} == {torch.float32}
    whole, mixed = found.values()
    assert mixed["train/loss"].dtype == torch.float32
    assert mixed["train/loss"] == pytest.approx(float(whole["train/loss"]), rel=0.02)


def in_full(stems, generator):
    """An augmentation that refuses half precision, and changes nothing."""
    assert not torch.is_autocast_enabled("cpu")
    return stems
