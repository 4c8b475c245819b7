"use strict";
/* The songs of a page: each section is one, with a Player, a fader for each row, and a cursor over all pictures. */
class Song {
  static all = [];
  static current = null;

  constructor(section, { rate, seconds, rows }) {
    this.section = section;
    this.seconds = seconds;
    this.sounds = Object.fromEntries(rows.map(({ audio }, i) => [`row${i}`, audio]));
    this.player = new Player({ sampleRate: rate });
    this.player.ontime = (time) => this.show(time);
    this.player.onstate = (playing) => this.state(playing);
    this.rows = [...section.querySelectorAll(".row")].map((element, i) => this.row(element, `row${i}`));
    this.at = (name) => section.querySelector(name);
    this.at(".play").onclick = () => this.toggle();
    this.at(".seek").oninput = (event) => this.seek(event.target.valueAsNumber);
    this.at(".from").onclick = () => this.loop(this.time, this.region?.[1] > this.time + 0.1 ? this.region[1] : seconds);
    this.at(".to").onclick = () => this.loop(this.region?.[0] < this.time - 0.1 ? this.region[0] : 0, this.time);
    this.at(".whole").onclick = () => this.loop();
    this.region = null;
    this.waiting = 0; // where to begin, as long as nothing is decoded
    this.mix();
    this.show(0);
    section.addEventListener("pointerdown", () => { Song.current = this; });
    section.addEventListener("focusin", () => { Song.current = this; });
    Song.all.push(this);
    Song.current ??= this;
  }

  get time() { return this.player.loaded ? this.player.time : this.waiting; }

  row(element, id) {
    const [mute, solo] = [".mute", ".solo"].map((name) => element.querySelector(name));
    const [gain, shown] = ["input", "output"].map((name) => element.querySelector(`.gain ${name}`));
    for (const button of [mute, solo]) {
      button.onclick = () => { button.ariaPressed = String(button.ariaPressed !== "true"); this.mix(); };
    }
    gain.oninput = () => this.mix();
    gain.ondblclick = () => { gain.value = 0; this.mix(); };
    const view = element.querySelector(".view");
    this.drag(view);
    return { id, element, mute, solo, gain, shown, cursor: view.querySelector(".cursor"), region: view.querySelector(".region") };
  }

  /* A click on a picture goes there, a stroke over it makes a loop. */
  drag(view) {
    let begin = null;
    const at = (event) => {
      const box = view.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * this.seconds;
    };
    view.onpointerdown = (event) => { if (event.button === 0) begin = [at(event), event.clientX]; };
    view.onpointerup = (event) => {
      if (begin === null) return;
      const [from, x] = begin, to = at(event);
      begin = null;
      if (Math.abs(event.clientX - x) < 6) {
        if (this.region && (to < this.region[0] || to > this.region[1])) this.loop();
        this.seek(to);
      } else this.loop(Math.min(from, to), Math.max(from, to));
    };
    view.onpointercancel = () => { begin = null; };
  }

  mix() {
    const soloed = this.rows.some(({ solo }) => solo.ariaPressed === "true");
    for (const { id, element, mute, solo, gain, shown } of this.rows) {
      const value = gain.valueAsNumber;
      const off = (soloed ? solo.ariaPressed !== "true" : mute.ariaPressed === "true") || value <= -40;
      const decibel = value <= -40 ? "−∞ dB" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value)} dB`;
      this.player.gain(id, off ? 0 : 10 ** (value / 20));
      shown.textContent = decibel;
      gain.setAttribute("aria-valuetext", decibel);
      element.classList.toggle("silent", off);
    }
  }

  async load() {
    if (this.player.loaded) return;
    this.loading ??= (async () => {
      this.say("Decoding …");
      try {
        await this.player.load(this.sounds);
        this.sounds = null;
        if (this.region) this.player.loop(...this.region);
        this.player.seek(this.waiting);
        this.say("");
      } catch (error) {
        this.loading = null;
        this.say(`This browser cannot decode the sound of this page: ${error.message}`);
      }
    })();
    await this.loading;
  }

  async toggle() {
    Song.current = this;
    if (this.player.playing) return this.player.pause();
    for (const other of Song.all) if (other !== this) other.player.pause();
    await this.load();
    await this.player.play();
  }

  seek(time) {
    this.waiting = Math.min(this.seconds, Math.max(0, time));
    if (this.player.loaded) this.player.seek(this.waiting);
    this.show(this.time);
  }

  loop(from, to) {
    this.region = to - from > 0.1 ? [from, to] : null;
    const region = this.region ?? [];
    if (this.player.loaded) this.player.loop(...region);
    else if (this.region && !(this.waiting >= from && this.waiting < to)) this.waiting = from;
    for (const { region: band } of this.rows) {
      band.style.display = this.region ? "block" : "none";
      band.style.left = `${(100 * (region[0] ?? 0)) / this.seconds}%`;
      band.style.width = `${(100 * ((region[1] ?? 0) - (region[0] ?? 0))) / this.seconds}%`;
    }
    this.at(".whole").disabled = !this.region;
    this.say(this.region ? `Loop from ${Song.clock(from)} to ${Song.clock(to)}` : "");
    this.show(this.time);
  }

  say(text) { this.at(".status").textContent = text; }

  state(playing) {
    const button = this.at(".play");
    button.textContent = playing ? "Pause" : "Play";
    button.ariaPressed = String(playing);
  }

  show(time) {
    const seek = this.at(".seek"), text = `${Song.clock(time)} / ${Song.clock(this.seconds)}`;
    seek.value = time;
    this.at(".time").textContent = text;
    seek.setAttribute("aria-valuetext", text);
    for (const { cursor } of this.rows) cursor.style.left = `${(100 * time) / this.seconds}%`;
  }

  static clock(seconds) {
    const tenths = Math.floor(10 * seconds + 1e-6);
    return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
  }
}

const told = JSON.parse(document.getElementById("songs").textContent);
document.querySelectorAll(".song").forEach((section, i) => new Song(section, told[i]));

/* Space plays, arrows go 5 s back and forth, but for where these keys mean something else. */
document.addEventListener("keydown", (event) => {
  const song = Song.current, target = event.target;
  if (!song || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && !target.closest("button, summary, a, select, audio")) song.toggle();
  else if (event.key === "ArrowLeft" && !target.closest(".gain, audio")) song.seek(song.time - 5);
  else if (event.key === "ArrowRight" && !target.closest(".gain, audio")) song.seek(song.time + 5);
  else if (event.key === "Home" && !target.closest(".gain, audio")) song.seek(0);
  else return;
  event.preventDefault();
});
