/* A listening test: MUSHRA, paired preference (ab) or identification (abx). `Player` is of player.js. */
const $ = (id) => document.getElementById(id);
const test = JSON.parse($("test").textContent);
const WORDS = ["Bad", "Poor", "Fair", "Good", "Excellent"];
const HEARD = 1; // seconds for which each signal must have been heard
const SHORTEST = 0.5; // seconds of a loop, the least that BS.1534-3 lets one select
const LETTERS = "ABCDEFGHIJKLMNOP";

const ADVICE = {
  mushra: "Move each slider to where the signal belongs on the scale. One of them is the reference itself, which is to be given 100. "
    + "You may switch between the signals while they play.",
  ab: "Listen to both signals, as often as you like, and say which one you prefer.",
  abx: "X is either A or B. Listen to all three, as often as you like, and say which of the two it is.",
};
const TRAINING = "This is a training page, to learn what the differences sound like and how to answer: nothing is recorded. "
  + "Set a volume that is comfortable, and leave it there. ";

/* --- Random order that the participant's name decides: FNV-1a, mulberry32, Fisher-Yates --- */
function seedOf(text) {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(items, random) {
  const list = [...items];
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

function newSession(participant) {
  const seed = seedOf(`${test.id}\n${participant}`);
  const random = generator(seed);
  const order = shuffled(test.trials.map((_, i) => i), random);
  const signals = test.trials.map((trial) => shuffled(trial.signals, random));
  const x = test.mode === "abx" ? signals.map((two) => two[random() < 0.5 ? 0 : 1]) : null;
  return { participant, seed, order, signals, x, at: -1, answers: [], working: null, volume: 0,
    started: new Date().toISOString(), finished: null };
}

/* --- What the browser keeps --- */
const PLACE = `mss-listen/${test.id}`;
const kept = {
  get: (name) => { try { return JSON.parse(localStorage.getItem(name)); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* private windows */ } },
};
let session = null;
function keep() {
  kept.set(`${PLACE}/${session.participant}`, session);
  kept.set(PLACE, session.participant);
}

/* --- Results --- */
function results() {
  const { participant, seed, started, finished, volume, answers } = session;
  return JSON.stringify({ format: "mss-listening-results", version: 1, test: test.id, participant, seed, started, finished,
    volume, comment: $("comment").value, trials: answers });
}

async function send() {
  $("outcome").textContent = "Sending …";
  try {
    const answer = await fetch("results", { method: "POST", headers: { "Content-Type": "application/json" }, body: results() });
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
    $("outcome").textContent = "The results have arrived. You may close this page.";
  } catch (error) {
    $("outcome").textContent = `The results could not be sent (${error.message}). Save them as a file, and hand that in.`;
  }
}

function save() {
  const name = session.participant.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  const link = make("a", { download: `listening-${test.id.slice(0, 8)}-${name}.json` });
  link.href = URL.createObjectURL(new Blob([results()], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  $("outcome").textContent = "The file is where your browser keeps downloads.";
}
