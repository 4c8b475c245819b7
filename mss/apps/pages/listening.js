/* What is heard and seen of a listening test; what is known of it is in listening_session.js. */
/* --- One trial --- */
let player = null, shown = null; // shown: {trial, labels, current, heard, rows}
let opened = 0, last = 0;

function sound(code) { return JSON.parse($(code).textContent); }

async function openTrial(index, training) {
  const turn = ++opened;
  const trial = test.trials[index], signals = session.signals[index];
  const x = session.x ? session.x[index] : null;
  const labels = new Map(); // label -> code
  if (trial.reference) labels.set("Reference", trial.reference);
  signals.forEach((code, i) => labels.set(LETTERS[i], code));
  if (x) labels.set("X", x);
  if (player) close(player);
  player = new Player({ sampleRate: test.rate });
  for (const label of labels.keys()) player.gain(label, 0);
  const saved = session.working ?? {};
  shown = { index, training, trial, labels, current: null, rows: new Map(), began: Date.now() - (saved.spent ?? 0),
    heard: saved.heard ?? {}, ratings: saved.ratings ?? {}, choice: saved.choice ?? null };
  draw();
  $("next").disabled = true;
  $("todo").textContent = "Loading …";
  const mine = player;
  await mine.load(Object.fromEntries([...labels].map(([label, code]) => [label, sound(code)])));
  if (turn !== opened) return;
  mine.output.gain.value = 10 ** (session.volume / 20);
  mine.loop(0, mine.duration);
  mine.ontime = (time) => { credit(); cursor(time); };
  mine.onstate = () => { credit(); pressed(); };
  for (const id of ["from", "to"]) $(id).max = mine.duration.toFixed(1);
  loop(0, mine.duration);
  wave();
  update();
}

function close(old) {
  old.ontime = old.onstate = () => {};
  old.pause();
  setTimeout(() => old.context.close(), 100); // after the fade
}

/* Seconds for which the signal chosen has sounded, by the clock of the sound: timers are late in the background. */
function credit() {
  const now = player.context.currentTime;
  if (shown.current && shown.playing) {
    const before = shown.heard[shown.current] ?? 0;
    shown.heard[shown.current] = before + Math.max(0, now - last);
    if (before < HEARD && before + now - last >= HEARD) update();
  }
  shown.playing = player.playing;
  last = now;
}

function choose(label) {
  if (!player?.loaded || !shown.labels.has(label)) return;
  credit();
  shown.current = label;
  for (const name of shown.labels.keys()) player.gain(name, name === label ? 1 : 0);
  if (!player.playing) player.play();
  pressed();
}

function toggle() {
  if (!player?.loaded) return;
  if (!shown.current) choose(shown.labels.keys().next().value);
  else player.toggle();
}

function loop(from, to) {
  const whole = player.duration;
  from = Math.max(0, Math.min(from, whole - SHORTEST));
  to = Math.min(whole, Math.max(to, from + SHORTEST));
  player.loop(from, to);
  $("from").value = from;
  $("to").value = to;
  for (const [id, value] of [["from", from], ["to", to]]) $(id).setAttribute("aria-valuetext", `${value.toFixed(1)} s`);
  Object.assign($("region").style, { left: `${(100 * from) / whole}%`, width: `${(100 * (to - from)) / whole}%` });
}

function pressed() {
  $("play").textContent = player.playing ? "Pause" : "Play";
  for (const button of document.querySelectorAll("[data-signal]"))
    button.setAttribute("aria-pressed", String(button.dataset.signal === shown.current && player.playing));
}

/* What is still to be done before one may go on; empty: nothing. */
function missing() {
  const parts = [];
  const unheard = [...shown.labels.keys()].filter((label) => (shown.heard[label] ?? 0) < HEARD);
  if (unheard.length) parts.push(`listen to ${unheard.join(", ")}`);
  if (test.mode === "mushra") {
    const left = [...shown.rows.keys()].filter((label) => !(shown.labels.get(label) in shown.ratings));
    if (left.length) parts.push(`rate ${left.join(", ")}`);
  } else if (!shown.choice) parts.push("choose an answer");
  return parts.join("; ");
}

function update() {
  const left = missing();
  $("todo").textContent = left ? `Still to do: ${left}.` : "";
  $("next").disabled = Boolean(left);
  session.working = { heard: shown.heard, ratings: shown.ratings, choice: shown.choice, spent: Date.now() - shown.began };
  keep();
}

function finishTrial() {
  if (missing()) return;
  const codes = session.signals[shown.index];
  const answer = { trial: shown.trial.id, signals: codes, seconds: Math.round((Date.now() - shown.began) / 100) / 10 };
  if (test.mode === "mushra") answer.ratings = shown.ratings;
  else answer.choice = shown.choice;
  if (test.mode === "abx") answer.x = session.x[shown.index];
  if (!shown.training) session.answers.push(answer);
  session.at += 1;
  session.working = null;
  if (session.at >= session.order.length) session.finished = new Date().toISOString();
  keep();
  show();
}

/* --- What is to be seen --- */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function signalButton(label, text = label) {
  const button = make("button", { type: "button", textContent: text, onclick: () => choose(label) });
  button.dataset.signal = label;
  button.setAttribute("aria-label", `Listen to ${label}`);
  button.setAttribute("aria-pressed", "false");
  return button;
}

function draw() {
  const { trial, training, labels, rows } = shown;
  $("place").textContent = training ? "Training" : `Trial ${session.at + 1} of ${session.order.length}`;
  $("question").textContent = test.question;
  $("advice").textContent = `${training ? TRAINING : ""}${trial.stem ? `The signal in question: ${trial.stem}. ` : ""}${ADVICE[test.mode]}`;
  $("volume-label").hidden = !training;
  $("volume").value = session.volume;
  $("reference").hidden = !trial.reference;
  $("reference").dataset.signal = "Reference";
  $("rows").replaceChildren();
  $("choices").replaceChildren();
  $("keys").textContent = test.mode === "mushra" ? "R is the reference, 1 to 9 or A, B … the signals"
    : test.mode === "ab" ? "R is the reference, A and B the signals" : "A, B and X are the signals";
  if (test.mode === "mushra") {
    const words = make("div", { className: "words" }, ...WORDS.map((word) => make("span", { textContent: word })));
    const head = make("div", { className: "row" }, make("span"), words, make("span"));
    head.setAttribute("aria-hidden", "true");
    $("rows").append(head);
    for (const [label, code] of labels) if (label !== "Reference") rows.set(label, ratingRow(label, code));
    $("rows").append(...rows.values());
  } else {
    for (const label of labels.keys()) if (label !== "Reference") $("transport").append(signalButton(label));
    const text = test.mode === "ab" ? (label) => `I prefer ${label}` : (label) => `X is ${label}`;
    for (const label of ["A", "B"]) {
      const button = make("button", { type: "button", textContent: text(label) });
      const mark = () => button.setAttribute("aria-pressed", String(shown.choice === labels.get(label)));
      button.onclick = () => {
        shown.choice = labels.get(label);
        for (const other of $("choices").children) other.mark();
        update();
      };
      button.mark = mark;
      mark();
      $("choices").append(button);
    }
  }
}

function ratingRow(label, code) {
  const slider = make("input", { type: "range", min: 0, max: 100, step: 1, value: shown.ratings[code] ?? 50 });
  const output = make("output", { textContent: shown.ratings[code] ?? "–" });
  const row = make("div", { className: code in shown.ratings ? "row" : "row untouched" },
    signalButton(label), make("div", { className: "scale" }, slider), output);
  slider.setAttribute("aria-label", `Rating of ${label}`);
  const say = () => slider.setAttribute("aria-valuetext", `${slider.value}, ${WORDS[Math.min(4, Math.floor(slider.value / 20))]}`);
  const set = () => {
    shown.ratings[code] = Number(slider.value);
    output.textContent = slider.value;
    row.classList.remove("untouched");
    say();
    update();
  };
  slider.addEventListener("input", set);
  slider.addEventListener("pointerup", set); // a click on where it stands is an answer, too
  say();
  return row;
}

function wave() {
  const canvas = $("picture"), buffer = player.buffer(shown.labels.keys().next().value);
  const scale = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale), ink = canvas.getContext("2d");
  Object.assign(canvas, { width, height });
  if (!buffer || !width) return;
  const samples = buffer.getChannelData(0);
  const peaks = Array.from({ length: width }, (_, i) => {
    let peak = 0;
    for (let n = Math.floor((i * samples.length) / width); n < ((i + 1) * samples.length) / width; n++)
      peak = Math.max(peak, Math.abs(samples[n] ?? 0));
    return peak;
  });
  const highest = Math.max(...peaks, 1e-6);
  ink.fillStyle = getComputedStyle(canvas).getPropertyValue("color");
  ink.globalAlpha = 0.6;
  peaks.forEach((peak, i) => ink.fillRect(i, (height * (1 - (0.92 * peak) / highest)) / 2, 1, Math.max(1, (height * 0.92 * peak) / highest)));
}

function cursor(time) { $("cursor").style.left = `${(100 * time) / player.duration}%`; }

function show() {
  const stage = session === null ? "start" : session.finished ? "finish" : "trial";
  for (const id of ["start", "trial", "finish"]) $(id).hidden = id !== stage;
  for (const old of document.querySelectorAll("#transport [data-signal]")) if (old.id !== "reference") old.remove();
  if (stage === "trial") {
    const training = session.at < 0;
    openTrial(training ? test.training : session.order[session.at], training).catch((error) => {
      $("todo").textContent = `The sounds of this trial cannot be played (${error.message}): try another browser.`;
    });
  } else if (player) { close(player); player = null; opened++; }
  if (stage === "finish") $("send").hidden = !location.protocol.startsWith("http");
  window.scrollTo(0, 0);
  $(stage).querySelector("h2")?.focus();
}

/* --- Hands --- */
$("begin").onsubmit = (event) => {
  event.preventDefault();
  const participant = $("participant").value.normalize().trim();
  if (!participant) return;
  session = kept.get(`${PLACE}/${participant}`) ?? newSession(participant);
  keep();
  show();
};
$("play").onclick = toggle;
$("reference").onclick = () => choose("Reference");
$("next").onclick = finishTrial;
$("whole").onclick = () => player?.loaded && loop(0, player.duration);
$("from").oninput = () => player?.loaded && loop(Math.min(Number($("from").value), Number($("to").value) - SHORTEST), Number($("to").value));
$("to").oninput = () => player?.loaded && loop(Number($("from").value), Math.max(Number($("to").value), Number($("from").value) + SHORTEST));
$("volume").oninput = () => {
  session.volume = Number($("volume").value);
  if (player?.loaded) player.output.gain.value = 10 ** (session.volume / 20);
  keep();
};
$("send").onclick = send;
$("save").onclick = save;
$("another").onclick = () => {
  session = null;
  $("participant").value = $("comment").value = $("outcome").textContent = "";
  $("unfinished").hidden = true;
  show();
};

let dragged = null; // where a region begins that is being drawn, seconds
const secondsAt = (event) => {
  const box = $("wave").getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * player.duration;
};
$("wave").onpointerdown = (event) => {
  if (!player?.loaded) return;
  dragged = secondsAt(event);
  $("wave").setPointerCapture(event.pointerId);
};
$("wave").onpointerup = (event) => {
  if (dragged === null || !player?.loaded) return;
  const to = secondsAt(event);
  if (Math.abs(to - dragged) < 0.2) player.seek(to);
  else loop(Math.min(dragged, to), Math.max(dragged, to));
  dragged = null;
};
$("wave").onpointercancel = () => { dragged = null; };

document.addEventListener("keydown", (event) => {
  if ($("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toUpperCase();
  if (key === " " && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    toggle();
  } else if (key === "R" || key === "0") choose("Reference");
  else if (/^[1-9]$/.test(key)) choose(LETTERS[Number(key) - 1]);
  else if (key.length === 1 && shown?.labels.has(key)) choose(key);
});
window.addEventListener("resize", () => { if (player?.loaded) wave(); });

$("welcome").textContent = `${test.trials.length} ${test.trials.length === 1 ? "trial" : "trials"} follow a training page. ${test.question}`;
const unfinished = kept.get(PLACE);
if (unfinished && kept.get(`${PLACE}/${unfinished}`)) {
  $("participant").value = unfinished;
  $("unfinished").hidden = false;
  $("unfinished").textContent = "A session under this name is kept here: Begin goes on with it.";
}
show();
