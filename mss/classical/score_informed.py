"""Score-informed NMF: the notes of a score say which entries of W and H may differ from 0 (Ewert & Müller 2012).

|X| ~ W H by the Kullback-Leibler divergence, with one column of W for each pitch of each instrument, which starts as bands
around the multiples k f0 of its fundamental, of height 1 / k, and is 0 elsewhere; its row of H is 1 where the score has the
note, some tolerance before and after it, and 0 elsewhere. What is 0 stays 0 under multiplicative updates. Each instrument may
have spectra of its onsets, too, free in frequency, but only there where its notes begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mss.classical._alignment import align
from mss.classical._nmf import concatenated, factorise, model, random_start

__all__ = ["Note", "instruments", "read_score", "score_informed"]

LOBE = 2.0  # bins on either side of a partial, the main lobe of a Hann window: no band is narrower


@dataclass(frozen=True)
class Note:
    """A note of a score.

    Args:
        instrument: name of who plays it.
        pitch: MIDI number, 69 for the A of 440 Hz; may have a fraction.
        onset: seconds from the start of the recording.
        offset: seconds.
    """

    instrument: str
    pitch: float
    onset: float
    offset: float

    def __post_init__(self) -> None:
        if not 0 <= self.onset < self.offset:
            raise ValueError(
                f"a note ends after it begins, which is not before 0 s; got {self.onset} to {self.offset} s"
            )

    @property
    def frequency(self) -> float:
        """Hz."""
        return 440 * 2 ** ((self.pitch - 69) / 12)


def read_score(path: str | Path) -> list[Note]:
    """The notes of a MIDI file in the order of their onsets; those of drums, which have no pitch, are left out.

    Tracks are told apart by their name, else by that of their General MIDI programme; equal names get a number.
    The times are those of the file: `score_informed(aligned=False)` has them warped to those of the recording.

    Raises:
        ImportError: pretty_midi, which reads MIDI files, is not installed.
        ValueError: not a MIDI file.
    """
    try:
        import pretty_midi
    except ImportError as error:
        raise ImportError("reading a MIDI file needs the package pretty_midi: pip install pretty_midi") from error
    try:
        score = pretty_midi.PrettyMIDI(str(path))
    except (OSError, ValueError, EOFError, KeyError, IndexError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: cannot be read as a MIDI file: {error}") from error
    tracks = [track for track in score.instruments if not track.is_drum and track.notes]
    names: list[str] = []
    for track in tracks:
        name = track.name.strip() or pretty_midi.program_to_instrument_name(track.program)
        count = sum(other == name or other.startswith(f"{name} ") for other in names)
        names.append(f"{name} {count + 1}" if name in names else name)
    notes = [
        Note(name, note.pitch, note.start, note.end)
        for name, track in zip(names, tracks, strict=True)
        for note in track.notes
        if note.end > note.start
    ]
    return sorted(notes, key=lambda note: (note.onset, note.pitch))


def instruments(notes: Sequence[Note]) -> tuple[str, ...]:
    """Who plays, in the order of their first notes: the targets of `score_informed`."""
    return tuple(dict.fromkeys(note.instrument for note in notes))


def score_informed(
    X: Tensor,
    *,
    notes: Sequence[Note],
    aligned: bool = True,
    iterations: int = 60,
    tolerance: float = 0.1,
    width: float = 0.5,
    partials: int = 25,
    onsets: int = 0,
    rest: int = 0,
    hop: int = 1024,
    sample_rate: int = 44100,
    seed: int = 0,
) -> Tensor:
    """Magnitudes of the instruments of a score.

    Args:
        X: (b, c, f, k) complex; the whole batch plays the same score.
        notes: of the score.
        aligned: whether their times are those of the recording; else they are warped to it, by chroma.
        iterations: of spectra and activations.
        tolerance: by which a note may sound before and after its time in the score, seconds.
        width: by which a partial may be off, semitones.
        partials: of each note at the start, those above half the sampling rate left out.
        onsets: spectra of the onsets of each instrument.
        rest: spectra of all that is not in the score, free in frequency and time.
        hop: samples between the frames of X.
        sample_rate: Hz.
        seed: of the free spectra.

    Returns:
        V (b, n, c, f, k): `instruments(notes)`, and with `rest` above 0 one more.

    Example:
        >>> notes = mss.classical.read_score("duet.mid")
        >>> estimator = functools.partial(mss.classical.score_informed, notes=notes)
        >>> separator = mss.SpectralSeparator(estimator, mss.classical.instruments(notes))
    """
    if not notes:
        raise ValueError("the score has no notes")
    b, c, f, k = X.shape
    spacing = sample_rate / (2 * (f - 1))
    names = instruments(notes)
    if not aligned:
        notes = _aligned(notes, X, sample_rate / hop, sample_rate)
    W, H, owners = _constraints(notes, names, f, k, spacing, sample_rate / hop, tolerance, width, partials, onsets)
    V, level = concatenated(X.abs())
    H = H.to(V).repeat(1, c)
    W = (W / W.sum(0)).to(V)
    H = H * (f * H.shape[1] / H.sum().clamp_min(1))  # so that W H has a mean of 1
    W, H = W.expand(b, -1, -1), H.expand(b, -1, -1)
    if rest:
        free_W, free_H = random_start(V, rest, seed)
        W, H = torch.cat([W, free_W], -1), torch.cat([H, free_H], 1)
        owners = owners + [len(names)] * rest
    W, H = factorise(V, W, H, iterations=iterations)
    targets = torch.arange(len(names) + (rest > 0)).unsqueeze(-1)
    groups = (torch.tensor(owners) == targets).to(V).expand(b, -1, -1)
    return model(W * level, H, groups, c)


def _aligned(notes: Sequence[Note], X: Tensor, rate: float, sample_rate: int) -> list[Note]:
    """The notes at the times at which X (b, c, f, k) has them."""
    if X.device.type == "meta":
        return list(notes)
    columns = torch.tensor([(note.pitch, note.onset, note.offset) for note in notes], dtype=torch.float64)
    onsets, offsets = align(*columns.unbind(1), X.abs().mean((0, 1)), rate, sample_rate)
    times = zip(notes, onsets.tolist(), offsets.tolist(), strict=True)
    return [replace(note, onset=max(onset, 0.0), offset=offset) for note, onset, offset in times]


def _constraints(
    notes: Sequence[Note],
    names: Sequence[str],
    f: int,
    k: int,
    spacing: float,
    rate: float,
    tolerance: float,
    width: float,
    partials: int,
    onsets: int,
) -> tuple[Tensor, Tensor, list[int]]:
    """W (f, a) and H (a, k) to start from, and whose each component is; `spacing` of bins in Hz, `rate` of frames in Hz."""
    played = list(dict.fromkeys((note.instrument, note.pitch, note.frequency) for note in notes))
    W, H = torch.zeros(f, len(played)), torch.zeros(len(played), k)
    for column, (_, _, frequency) in enumerate(played):
        for partial in range(1, partials + 1):
            centre = partial * frequency / spacing
            off = max(centre * (2 ** (width / 12) - 1), LOBE)
            band = W[max(math.ceil(centre - off), 0) : max(math.floor(centre + off) + 1, 0), column]
            if centre < f:
                band.clamp_min_(1 / partial)
    rows = {(instrument, pitch): row for row, (instrument, pitch, _) in enumerate(played)}
    for note in notes:
        H[rows[note.instrument, note.pitch], _frames(note.onset, note.offset, tolerance, rate)] = 1
    owners = [names.index(instrument) for instrument, _, _ in played]
    if onsets:
        generator = torch.Generator().manual_seed(0)
        starts = torch.zeros(len(names), k)
        for note in notes:
            starts[names.index(note.instrument), _frames(note.onset, note.onset, tolerance / 2, rate)] = 1
        noise = 0.5 + torch.rand(f, len(names) * onsets, generator=generator)  # equal columns would stay equal
        W, H = torch.cat([W, noise], 1), torch.cat([H, starts.repeat_interleave(onsets, 0)])
        owners = owners + [i for i in range(len(names)) for _ in range(onsets)]
    return W, H, owners


def _frames(onset: float, offset: float, tolerance: float, rate: float) -> slice:
    """Frames of a note: at least the one at its onset."""
    first = max(round((onset - tolerance) * rate), 0)
    return slice(first, max(round((offset + tolerance) * rate), round(onset * rate)) + 1)
