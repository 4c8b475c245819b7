"use strict";
/* Sounds that play together on one clock, each with a gain: what players and listening tests are made of.

   const player = new Player({ sampleRate: 44100 });
   player.ontime = (seconds) => ...;  player.onstate = (playing) => ...;
   await player.load({ vocals: "data:audio/mpeg;base64,...", drums: arrayBuffer });
   player.gain("vocals", 0);  player.loop(2, 5);  await player.play();  player.seek(3);  player.pause();

   A pass is one run through the song or the loop. All sources of a pass start at the same time of the context's clock, so
   that they are sample-synchronous; a pass fades in and out, and when one begins in a loop the next is scheduled already:
   timers of a page in the background are late. */
class Player {
  #buffers = new Map();
  #gains = new Map();
  #nodes = new Map();
  #passes = [];
  #region = null;
  #rest = 0; // where it stands while paused, seconds
  #context = null;
  #frame = 0;

  constructor({ fade = 0.015, sampleRate } = {}) {
    this.fade = fade;
    this.sampleRate = sampleRate;
    this.ontime = () => {};
    this.onstate = () => {};
  }

  /* Made when first needed: browsers let a page sound only after the user has touched it. */
  get context() {
    if (!this.#context) {
      this.#context = new AudioContext(this.sampleRate ? { sampleRate: this.sampleRate } : {});
      this.output = this.#context.createGain();
      this.output.connect(this.#context.destination);
    }
    return this.#context;
  }

  get names() { return [...this.#buffers.keys()]; }
  get loaded() { return this.#buffers.size > 0; }
  get playing() { return this.#passes.length > 0; }
  get duration() { return Math.max(0, ...[...this.#buffers.values()].map((buffer) => buffer.duration)); }
  get region() { return this.#region; }

  /* Where it is, seconds. */
  get time() {
    if (!this.playing) return this.#rest;
    const now = this.context.currentTime;
    const pass = this.#passes.findLast((one) => one.start <= now) ?? this.#passes[0];
    return Math.min(pass.to, Math.max(pass.from, pass.from + now - pass.start));
  }

  buffer(name) { return this.#buffers.get(name); }
  node(name) { return this.#nodes.get(name); }

  /* Decodes sounds, data URIs or ArrayBuffers by name. */
  async load(sounds) {
    const entries = Object.entries(sounds);
    const decoded = await Promise.all(entries.map(([, sound]) => this.context.decodeAudioData(Player.bytes(sound))));
    entries.forEach(([name], i) => {
      this.#buffers.set(name, decoded[i]);
      const node = this.context.createGain();
      node.gain.value = this.#gains.get(name) ?? 1;
      node.connect(this.output);
      this.#nodes.get(name)?.disconnect();
      this.#nodes.set(name, node);
    });
  }

  static bytes(sound) {
    if (typeof sound !== "string") return sound.slice(0);
    const text = atob(sound.slice(sound.indexOf(",") + 1));
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes.buffer;
  }

  /* Linear gain of one sound; moves there within the fade. */
  gain(name, value) {
    this.#gains.set(name, value);
    const parameter = this.#nodes.get(name)?.gain;
    if (!parameter) return;
    const now = this.context.currentTime;
    const before = parameter.value;
    parameter.cancelScheduledValues(now);
    parameter.setValueAtTime(before, now);
    parameter.linearRampToValueAtTime(value, now + this.fade);
  }

  async play() {
    if (this.playing || !this.loaded) return;
    await this.context.resume();
    if (this.playing) return; // asked twice while the context woke up
    const [first, last] = this.#bounds();
    const from = this.#rest >= last - 0.01 || this.#rest < first ? first : this.#rest;
    this.#begin(from);
    this.onstate(true);
    this.#tick();
  }

  pause() {
    if (!this.playing) return;
    this.#rest = this.time;
    this.#end();
    this.onstate(false);
    this.ontime(this.#rest);
  }

  toggle() { return this.playing ? this.pause() : this.play(); }

  seek(seconds) {
    const [first, last] = this.#region ?? [0, this.duration || Infinity];
    this.#rest = Math.min(last, Math.max(first, seconds));
    if (this.playing) {
      this.#end();
      this.#begin(this.#rest >= last ? first : this.#rest);
    }
    this.ontime(this.time);
  }

  /* Repeats from..to, seconds; without arguments, no longer. */
  loop(from, to) {
    const time = this.time;
    this.#region = from === undefined || from === null ? null : [from, to];
    const [first, last] = this.#bounds();
    const inside = time >= first && time < last ? time : first;
    if (this.playing) {
      this.#end();
      this.#begin(inside);
    } else if (this.#region) this.#rest = inside;
    this.ontime(this.time);
  }

  #bounds() { return this.#region ?? [0, this.duration]; }

  #begin(from) { this.#schedule(this.context.currentTime + 0.02, from); }

  #schedule(start, from) {
    const to = this.#bounds()[1];
    const pass = { start, from, to, sources: [], envelopes: [] };
    const stop = start + to - from;
    const fade = Math.min(this.fade, (to - from) / 2);
    for (const [name, buffer] of this.#buffers) {
      const source = this.context.createBufferSource();
      const envelope = this.context.createGain();
      source.buffer = buffer;
      source.connect(envelope).connect(this.#nodes.get(name));
      envelope.gain.setValueAtTime(from > 0 ? 0 : 1, start); // the first sample of a song is not faded
      if (from > 0) envelope.gain.linearRampToValueAtTime(1, start + fade);
      if (this.#region) {
        envelope.gain.setValueAtTime(1, stop - fade);
        envelope.gain.linearRampToValueAtTime(0, stop);
      }
      source.start(start, from, to - from);
      pass.sources.push(source);
      pass.envelopes.push(envelope);
    }
    this.#passes.push(pass);
    const longest = pass.sources.reduce((a, b) => (b.buffer.duration > a.buffer.duration ? b : a));
    longest.onended = () => this.#ended(pass);
    if (this.#region && this.#passes.length < 2) this.#schedule(stop, this.#region[0]);
  }

  #ended(pass) {
    if (pass.cut) return;
    this.#passes = this.#passes.filter((one) => one !== pass);
    if (this.#region && this.playing) {
      const last = this.#passes.at(-1);
      this.#schedule(last.start + last.to - last.from, this.#region[0]);
    } else if (!this.playing) {
      this.#rest = this.#bounds()[0];
      this.onstate(false);
      this.ontime(this.#rest);
    }
  }

  /* Fades out and forgets what sounds. */
  #end() {
    const now = this.context.currentTime;
    for (const pass of this.#passes) {
      pass.cut = true;
      pass.envelopes.forEach((envelope) => {
        const before = envelope.gain.value;
        envelope.gain.cancelScheduledValues(now);
        envelope.gain.setValueAtTime(before, now);
        envelope.gain.linearRampToValueAtTime(0, now + this.fade);
      });
      pass.sources.forEach((source) => source.stop(now + this.fade + 0.005));
    }
    this.#passes = [];
  }

  #tick() {
    cancelAnimationFrame(this.#frame);
    if (!this.playing) return;
    this.ontime(this.time);
    this.#frame = requestAnimationFrame(() => this.#tick());
  }
}
