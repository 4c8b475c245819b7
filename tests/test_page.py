"""The pages of separate, remix and evaluate: figures with known answers, and what a user meets in a browser."""

import io
import json
import math
import re
import subprocess
import sys
from base64 import b64decode

import pytest
import torch

import mss.evaluate
import mss.remix
import mss.separate
from mss.apps import drawing, figures
from mss.apps.page import Song, Sound, write_page
from mss.audio import Reader, read, write

RATE = 44100
HOSTILE = "<img src=x onerror=alert(1)>\"'.wav"


def tone(frequency: float, seconds: float = 4.0, rate: int = RATE, channels: int = 2) -> torch.Tensor:
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (0.2 * torch.sin(2 * math.pi * frequency * t)).float().expand(channels, -1)


def row(axes: figures.Axes, frequency: float) -> int:
    return int(axes.height(frequency) * axes.rows)


def pixels(uri: str) -> torch.Tensor:
    """(rows, columns, 4), the upper row first."""
    image = pytest.importorskip("PIL.Image")
    found = image.open(io.BytesIO(b64decode(uri.split(",")[1]))).convert("RGBA")
    return torch.frombuffer(bytearray(found.tobytes()), dtype=torch.uint8).view(found.height, found.width, 4)


# Figures


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
@pytest.mark.parametrize("frequency", [110.0, 1000.0, 3500.0])
def test_a_tone_is_a_line_at_its_frequency(rate, frequency):
    x = tone(frequency, 2.0, rate)
    axes = figures.Axes(rate, x.shape[-1])
    picture = figures.power(x, axes)
    assert picture.shape[0] == axes.rows
    assert picture.shape[1] <= axes.columns
    ratio = axes.top / axes.lowest
    edges = axes.lowest * ratio ** torch.linspace(0, 1, axes.rows + 1, dtype=torch.float64)
    energy = picture[:, picture.shape[1] // 4 : -picture.shape[1] // 4].mean(1) * edges.diff()
    centre = float((energy * (edges[1:] + edges[:-1]) / 2).sum() / energy.sum())
    assert centre == pytest.approx(frequency, rel=math.log(ratio) / axes.rows / 2)  # half a row


def test_the_dominant_of_two_tones_is_each_in_its_band():
    sounds = torch.stack([tone(150), tone(4000)])
    sounds[:, :, : 2 * RATE] *= torch.tensor([1.0, 0.1]).view(2, 1, 1)  # the louder one does not win everywhere
    axes = figures.Axes(RATE, sounds.shape[-1])
    powers = torch.stack([figures.power(x, axes) for x in sounds])
    winner = figures.dominant(powers)
    assert (winner[row(axes, 150) - 2 : row(axes, 150) + 3] == 0).all()
    assert (winner[row(axes, 4000) - 2 : row(axes, 4000) + 3] == 1).all()
    level = figures.levels(powers.amax(0), float(powers.max()))
    picture = pixels(drawing.dominance_image(winner, level, ["#0072b2", "#d55e00"])).flip(0)  # the lowest row first
    middle = picture.shape[1] * 3 // 4
    assert picture[row(axes, 150), middle, :3].tolist() == [0, 0x72, 0xB2]
    assert picture[row(axes, 4000), middle, :3].tolist() == [0xD5, 0x5E, 0]
    assert picture[[row(axes, 150), row(axes, 4000)], middle, 3].min() > 200
    assert picture[row(axes, 1000), middle, 3] < 30  # nothing is there


def test_levels_are_decibels_below_the_loudest():
    power = torch.tensor([1.0, 1e-3, 1e-7, 0.0]) * 5
    assert figures.levels(power, 5.0, 60.0).tolist() == pytest.approx([1, 0.5, 0, 0])
    assert figures.levels(power, 2.5, 60.0)[0] == 1
    assert figures.levels(torch.zeros(2), 0.0).tolist() == [0, 0]


def test_heat_gets_ever_lighter_from_low_to_high():
    weights = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    luminance = torch.from_numpy(drawing.heat_palette()[:, :3]).double() @ weights
    assert (luminance.diff() > 0).all()
    ramp = torch.linspace(0, 1, 50)[:, None].expand(-1, 3)
    picture = pixels(drawing.heat_image(ramp))[..., :3].double() @ weights
    assert (picture[0] > picture[-1]).all()  # high frequencies are above


@pytest.mark.parametrize("angle", [20, 45, 70])
def test_a_panned_source_is_a_peak_at_its_angle(generator, angle):
    source = torch.randn(RATE, generator=generator)
    gains = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    other = torch.randn(RATE, generator=generator) * torch.tensor([[0.1], [0.0]])
    both, alone = figures.panning([gains[:, None] * source + other, gains[:, None] * source])
    assert alone.argmax() == angle
    assert both.argmax() == pytest.approx(angle, abs=1)
    assert figures.panning([source[None]]) is None


def test_the_templates_of_two_notes_in_turn_are_their_spectra():
    soft = (torch.linspace(0, 10, RATE).clamp(max=1) * torch.linspace(10, 0, RATE).clamp(max=1)).square()  # no clicks
    x = torch.cat([tone(300, 1) * soft, tone(2500, 1) * soft, tone(300, 1) * soft], 1)
    axes = figures.Axes(RATE, x.shape[-1])
    W, H = figures.templates(figures.power(x, axes), 2)
    assert W.argmax(0).tolist() == pytest.approx([row(axes, 300), row(axes, 2500)], abs=2)
    k = H.shape[1]
    low, high = H[:, k // 8 : 5 * k // 24], H[:, 11 * k // 24 : 13 * k // 24]
    assert low[0].min() > 0.5
    assert low[1].max() < 0.1
    assert high[1].min() > 0.5
    assert high[0].max() < 0.1
    assert figures.templates(torch.zeros(8, 9)) is None


def test_templates_and_activations_are_drawn_apart():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert drawing.apart(x, 1, 1).tolist() == [[1, 0, 2], [3, 0, 4]]
    assert drawing.apart(x, 0, 1).tolist() == [[1, 2], [0, 0], [3, 4]]


def test_the_loudest_part_is_found(tmp_path, generator):
    x = 0.01 * torch.randn(1, 12 * 8000, generator=generator)
    x[:, 7 * 8000 : 9 * 8000] *= 30
    write(tmp_path / "x.wav", x, 8000)
    for start, expected in ((0.0, 7.0), (3.0, 4.0)):
        with Reader(tmp_path / "x.wav", start=start) as reader:
            assert figures.loudest(reader, 2.0) == (pytest.approx(expected, abs=0.25), 2.0, 12 - start)
    with Reader(tmp_path / "x.wav") as reader:
        assert figures.loudest(reader, 20.0) == (0.0, None, 12.0)
    song = Song("x", [Sound("x", tmp_path / "x.wav", start=3.0)], seconds=2.0)
    write_page(tmp_path / "page.html", [song], title="x")
    (tmp_path / "heard.mp3").write_bytes(b64decode(told(tmp_path / "page.html")[0]["rows"][0]["audio"].split(",")[1]))
    heard, _ = read(tmp_path / "heard.mp3")
    assert heard.shape == (1, 16000)
    assert heard[:, 2000:14000].square().mean().sqrt() > 0.2  # the loud part, in the page, too


# In a browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three tones, of which two cancel, below a hostile name."""
    folder = tmp_path_factory.mktemp("page")
    sounds = {HOSTILE: tone(440), "opposite": -tone(440), "high": tone(3000)}
    rows = []
    for i, (name, x) in enumerate(sounds.items()):
        write(folder / f"{i}.wav", x, RATE)
        rows.append(Sound(name, folder / f"{i}.wav", note=f"<b>{i}</b>"))
    song = Song(HOSTILE, rows, about="</script><script>alert(2)</script>")
    assert write_page(folder / "page.html", [song, song], title=HOSTILE).size < 2e6
    return folder / "page.html"


@pytest.fixture
def tab(browser, path):
    """The page, opened as a file; what it complains of, asks for or pops up fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: request.url.startswith("data:") or faults.append(request.url))
    opened.goto(path.as_uri())
    assert faults.pop(0) == path.as_uri()
    yield opened
    context.close()
    assert faults == []


def until(opened, condition: str) -> None:
    """Waits; the page's policy forbids the evaluation of strings with which Playwright itself would."""
    for _ in range(500):
        if opened.evaluate(condition):
            return
        opened.wait_for_timeout(20)
    raise AssertionError(f"never {condition}")


LISTEN = """async () => {
  const player = Song.all[0].player;
  if (!window.ear) {
    window.ear = player.context.createAnalyser();
    ear.fftSize = 8192; ear.smoothingTimeConstant = 0;
    player.output.connect(ear);
  }
  await new Promise((done) => setTimeout(done, 350));
  const bins = new Float32Array(ear.frequencyBinCount), wave = new Float32Array(ear.fftSize);
  ear.getFloatFrequencyData(bins); ear.getFloatTimeDomainData(wave);
  const at = (f) => Math.max(...bins.slice(Math.round(f * ear.fftSize / 44100) - 2, Math.round(f * ear.fftSize / 44100) + 3));
  return { low: at(440), high: at(3000), peak: Math.max(...wave.map(Math.abs)), time: player.time };
}"""


def test_it_plays_and_what_cancels_is_silent(tab):
    tab.click("#song0 .play")
    until(tab, "Song.all[0].player.playing")
    first, second = tab.evaluate(LISTEN), tab.evaluate(LISTEN)
    assert second["time"] > first["time"] + 0.3
    assert second["high"] > -30
    assert second["low"] < second["high"] - 50  # the two are sample-synchronous
    assert tab.inner_text("#song0 .play") == "Pause"
    tab.click("#song1 .play")  # another song takes over
    until(tab, "Song.all[1].player.playing && !Song.all[0].player.playing")
    assert tab.evaluate("Song.all[0].player.time") >= second["time"]


def heard_anew(tab):
    """Near its beginning, so that the song does not end while a busy machine listens."""
    tab.evaluate("Song.all[0].player.seek(0.2)")
    tab.evaluate("Song.all[0].player.play()")
    return tab.evaluate(LISTEN)


def test_mute_solo_and_gain_change_what_sounds(tab):
    tab.click("#song0 .play")
    until(tab, "Song.all[0].player.playing")
    mute, solo = tab.locator("#song0 .mute"), tab.locator("#song0 .solo")
    mute.nth(1).click()
    heard = heard_anew(tab)
    assert heard["low"] == pytest.approx(heard["high"], abs=3)
    solo.nth(0).click()
    alone = heard_anew(tab)
    assert alone["low"] == pytest.approx(heard["low"], abs=1)
    assert alone["high"] < -90
    slider = tab.locator("#song0 .gain input").nth(0)
    slider.evaluate("(one) => { one.value = -20; one.dispatchEvent(new Event('input')); }")
    assert heard_anew(tab)["low"] == pytest.approx(alone["low"] - 20, abs=0.5)
    assert tab.locator("#song0 .gain output").nth(0).inner_text() == "−20 dB"
    solo.nth(0).click()
    assert heard_anew(tab)["high"] == pytest.approx(heard["high"], abs=1)
    mute.nth(2).click()
    assert heard_anew(tab)["high"] < -90


def test_seek_and_loop_keep_all_in_sync(tab):
    tab.click("#song0 .play")
    until(tab, "Song.all[0].player.playing")
    tab.locator("#song0 .mute").nth(2).click()
    tab.evaluate(LISTEN)
    for action in ("seek(2.5)", "seek(0.3)", "loop(1.1, 1.5)"):
        tab.evaluate(f"Song.all[0].{action}")
        heard = tab.evaluate(LISTEN)
        assert heard["peak"] < 1e-3, action
    assert tab.inner_text("#song0 .status") == "Loop from 0:01.1 to 0:01.5"
    times = [tab.evaluate(LISTEN)["time"] for _ in range(4)]
    assert all(1.1 <= time <= 1.5 for time in times)
    tab.locator("#song0 .mute").nth(1).click()
    peaks = [tab.evaluate(LISTEN)["peak"] for _ in range(3)]
    assert peaks == pytest.approx([0.2] * 3, abs=0.02)  # the loop goes on sounding
    tab.evaluate("Song.all[0].loop()")
    until(tab, "Song.all[0].player.time > 1.6")
    tab.evaluate("Song.all[0].seek(3.9)")
    until(tab, "!Song.all[0].player.playing")  # and without it the song ends
    assert tab.evaluate("Song.all[0].player.time") == 0


def test_a_click_on_a_picture_goes_there_and_a_stroke_makes_a_loop(tab):
    view = tab.locator("#song0 .view").nth(1)
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert tab.evaluate("Song.all[0].time") == pytest.approx(2, abs=0.03)
    assert float(tab.input_value("#song0 .seek")) == pytest.approx(2, abs=0.03)
    tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 3 / 4, box["y"] + 20)
    tab.mouse.up()
    assert tab.evaluate("Song.all[0].region") == pytest.approx([1, 3], abs=0.03)
    tab.evaluate(
        "(({ player }) => { const show = player.ontime; window.times = [];"
        " player.ontime = (time) => { if (player.playing) times.push(time); show(time); }; })(Song.all[0])"
    )
    tab.click("#song0 .play")  # both hold when the sound is there
    until(tab, "times.length")
    assert tab.evaluate("Song.all[0].player.region") == pytest.approx([1, 3], abs=0.03)
    assert tab.evaluate("times[0]") == pytest.approx(2, abs=0.05)
    tab.click("#song0 .whole")
    assert tab.evaluate("Song.all[0].player.region") is None


def test_the_keyboard_reaches_and_does_everything(tab):
    reached = []
    for _ in range(17):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                "(({ ariaLabel, textContent }) => ariaLabel || textContent)(document.activeElement)",
            )
        )
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    labels = {"Play", "Position", "Loop from", "Loop to", f"Mute {HOSTILE}", "Solo opposite", "Gain of high, decibels"}
    assert labels <= set(reached)
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("Space")
    until(tab, "Song.all[0].player.playing || Song.all[1].player.playing")
    tab.keyboard.press("Space")
    until(tab, "!Song.current.player.playing")
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("Song.current.time") == 4  # 5 s on, or as far as there is
    tab.focus("#song0 .mute")
    tab.keyboard.press("Space")  # on a button it is the button's
    assert tab.get_attribute("#song0 .mute", "aria-pressed") == "true"
    assert not tab.evaluate("Song.current.player.playing")
    assert (
        tab.evaluate(
            "[...document.querySelectorAll('button, input, img, svg')].filter((x) => !(x.ariaLabel ?? x.alt ?? "
            "x.textContent)).length"
        )
        == 0
    )


def test_hostile_names_are_text(tab):
    assert tab.inner_text("h1") == HOSTILE
    assert tab.title() == HOSTILE
    assert tab.inner_text("#song0 .name >> nth=0") == HOSTILE
    assert tab.evaluate("document.querySelectorAll('img:not([src^=\"data:image/png\"]), b').length") == 0
    assert "</script><script>alert(2)</script>" in tab.inner_text("#song0 p >> nth=0")


def test_nothing_runs_that_is_not_the_page_s(browser, path):
    opened = browser.new_page()
    opened.goto(path.as_uri())
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.ran=1\">')")
    opened.evaluate("fetch('https://127.0.0.1:9/').catch(() => { window.refused = 1; })")
    until(opened, "window.refused")
    opened.wait_for_timeout(100)
    assert not opened.evaluate("window.ran")
    assert any("Content Security Policy" in text for text in said)
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_dark(browser, path, scheme):
    opened = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    opened.goto(path.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("body", "figcaption", ".legend li", ".gain output"):
        colours = opened.evaluate(
            f"['{name}', 'body'].map((name, i) => getComputedStyle(document.querySelector(name))"
            "[i ? 'backgroundColor' : 'color'])"
        )
        text, ground = (luminance(*map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert (ground < 0.05) == (scheme == "dark")
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 4.5  # WCAG 2.2, 1.4.3
    opened.close()


def luminance(*rgb: int) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# What is written


def told(path) -> list[dict]:
    """What the script of a page is told."""
    return json.loads(re.search(r'id="songs">(.*?)</script>', path.read_text(), re.S)[1])


@pytest.fixture
def song(tmp_path, excerpt):
    path = tmp_path / "song.wav"
    write(path, excerpt["mixture"][:, RATE : 5 * RATE], RATE)
    return path


def test_separate_writes_a_page_beside_the_stems(song, tmp_path, capsys):
    options = [str(song), "-o", str(tmp_path / "out"), "-n", "hpss", "--page", "--page-seconds", "2"]
    assert mss.separate.main(options) == 0
    page = tmp_path / "out" / "hpss" / "song" / "page.html"
    assert f"page: {page} ({page.stat().st_size / 1e6:.1f} MB)" in capsys.readouterr().err
    (one,) = told(page)
    assert one["seconds"] == 2
    assert len(one["rows"]) == 3
    text = page.read_text()
    assert "the loudest 0:02, from 0:0" in text
    assert all(f"Figure {number}, after Cano et al. 2019" in text for number in (1, 2, 5, 6))
    assert not re.search(r"https?:|@import|url\(", text)
    stems = {path: path.stat().st_mtime_ns for path in page.parent.glob("*.wav")}
    page.unlink()
    assert mss.separate.main([*options, "--skip-existing"]) == 0  # of the stems that are there
    assert page.is_file()
    assert stems == {path: path.stat().st_mtime_ns for path in page.parent.glob("*.wav")}
    assert mss.separate.main([*options, "--skip-existing"]) == 0
    assert "already there" in capsys.readouterr().err


def test_the_page_of_an_excerpt_is_of_that_excerpt(tmp_path, capsys):
    x = torch.cat([tone(5000, 2), tone(300, 2)], 1)
    write(tmp_path / "x.wav", x, RATE)
    options = ["-o", str(tmp_path), "--filename", "{track} - {stem}.{ext}", "-n", "hpss", "--page", "--start", "2.1"]
    assert mss.separate.main([str(tmp_path / "x.wav"), *options]) == 0
    page = tmp_path / "x - page.html"
    assert told(page)[0]["seconds"] == pytest.approx(1.9)
    pictures = [
        pixels(uri) for uri in re.findall(r'img src="(data:image/png[^"]*)" alt="Spectrogram of', page.read_text())
    ]
    axes = figures.Axes(RATE, round(1.9 * RATE))
    light = [picture.flip(0)[:, 40:-40, :3].double().mean((1, 2)) for picture in pictures[:2]]
    assert [int(x.argmax()) for x in light] == pytest.approx([row(axes, 300)] * 2, abs=3)  # the song, and what rings


@pytest.mark.parametrize(("rate", "channels"), [(96000, 1), (44100, 6), (22050, 3)])
def test_any_rate_and_channels_can_be_on_a_page(tmp_path, generator, rate, channels):
    for name in "ab":
        write(tmp_path / f"{name}.wav", 0.1 * torch.randn(channels, rate, generator=generator), rate)
    sounds = [Sound(name, tmp_path / f"{name}.wav") for name in "ab"]
    write_page(tmp_path / "page.html", [Song("x", sounds)], title="x")
    (one,) = told(tmp_path / "page.html")
    assert one["rate"] == (44100 if rate == 96000 else rate)
    assert ("No Figure 5" in (tmp_path / "page.html").read_text()) == (channels != 6)


def test_remix_writes_a_page_with_stems_that_are_not_kept(song, tmp_path, capsys):
    options = ["-n", "hpss", "percussive=-6dB", "--page", "--no-save-stems", "-o", str(tmp_path / "out")]
    assert mss.remix.main([str(song), *options]) == 0
    page = tmp_path / "out" / "song.html"
    assert f"page: {page}" in capsys.readouterr().err
    text = page.read_text()
    assert re.findall(r'aria-label="Mute (\w+)"', text) == ["mixture", "remix", "harmonic", "percussive"]
    assert re.findall(r'class="mute" aria-pressed="(\w+)"', text) == ["true", "false", "true", "true"]
    gains = [float(value) for value in re.findall(r'step="0.5" value="([^"]*)"', text)]
    assert gains == pytest.approx([0, 0, 0, -6], abs=0.01)


def test_evaluate_writes_the_leaderboard_with_tracks_to_listen_to(tmp_path, excerpt, browser):
    for track in ("one", "<b>two"):
        for name, x in excerpt.items():
            (tmp_path / "data" / track).mkdir(parents=True, exist_ok=True)
            write(tmp_path / "data" / track / f"{name}.wav", x[:, RATE : 3 * RATE], RATE)
    options = [
        f"data={tmp_path / 'data'}",
        "separator=hpss",
        "rename=[percussive:drums,harmonic:no_drums]",
        "quiet=true",
    ]
    assert mss.evaluate.main([*options, f"out={tmp_path / 'out'}", "save=true", "--page"]) == 0
    page = tmp_path / "out" / "page.html"
    songs = told(page)
    assert [len(song["rows"]) for song in songs] == [5, 5]  # mixture, and estimate and reference of two targets
    opened = browser.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(page.as_uri())
    assert opened.locator("section h3", has_text="All measures").count() == 1
    opened.click("#song1 .play")
    until(opened, "Song.all[1].player.time > 0.2")
    opened.locator("th button").first.click()
    assert opened.locator("th[aria-sort]").count() == 1
    (tmp_path / "out" / "estimates").rename(tmp_path / "away")  # the page needs no file beside it
    assert opened.locator("audio").count() == 0
    (tmp_path / "away").rename(tmp_path / "out" / "estimates")
    opened.goto((tmp_path / "out" / "leaderboard.html").as_uri())
    opened.evaluate("document.querySelector('audio').play()")  # the leaderboard's are files beside it
    until(opened, "document.querySelector('audio').currentTime > 0")
    opened.close()
    assert faults == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--page", "--page-seconds", "0"], "from 1 to 600"),
        (["--page", "--page-seconds", "601"], "from 1 to 600"),
        (["--page-seconds", "30"], "goes with --page"),
    ],
)
def test_wrong_seconds_are_refused(song, capsys, options, said):
    for verb in (mss.separate, mss.remix):
        setting = ["vocals=mute"] if verb is mss.remix else []
        assert verb.main([str(song), *setting, *options]) == 2
        assert said in capsys.readouterr().err


def test_a_page_needs_no_matplotlib(tmp_path):
    write(tmp_path / "x.wav", tone(440, 1), RATE)
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from mss.apps.page import Song, Sound, write_page\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "write_page(folder / 'page.html', [Song('x', [Sound('x', folder / 'x.wav')])], title='x')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "page.html").stat().st_size > 10_000
