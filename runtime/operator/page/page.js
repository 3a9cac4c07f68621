// The operator's page: shows what /events tells, sends what is pressed. Keys are those of the terminal.
"use strict";

const about = JSON.parse(document.body.dataset.about);
const byId = (id) => document.getElementById(id);
const points = new Map(); // tick -> [seconds, process, completion, contrastive]
let ended = false;

// -- what is pressed

const ANSWER_MS = 3000; // the robot's own patience is half of it

let heardS = 0; // the robot's time in the newest event: what a network held up says how old it is
let sent = 0; // and its number, what it came after: a browser has several connections
const page = crypto.getRandomValues(new Uint32Array(2)).join("-");

async function send(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Entracte-Page": about.key },
    body: JSON.stringify({ ...body, heard_s: heardS, page, number: ++sent }),
    signal: AbortSignal.timeout(ANSWER_MS), // what waits in the browser for so long is not sent later
  });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found.answer;
}

const ANSWERS = { done: "", refused: "not now", waiting: "the robot has not answered yet" };

let forget = 0;

async function command(name) {
  const words = name.replace("_", " ");
  try {
    const answer = await send("/command", { command: name });
    say(ANSWERS[answer] ? `${words}: ${ANSWERS[answer]}` : words, false);
  } catch (error) {
    say(`${words}: ${failure(error)}`, true);
  }
}

// fetch's own errors: nobody answered, and nobody knows how far it came.
const failure = (error) => error instanceof TypeError || error.name === "TimeoutError"
  ? "NOT SENT, or not answered. The hardware stop works without this page." : error.message;

function say(words, failed) {
  text("answer", words);
  byId("answer").classList.toggle("failed", failed);
  clearTimeout(forget);
  if (!failed) forget = setTimeout(() => text("answer", ""), 6000);
}

for (const button of document.querySelectorAll("button[data-command]")) {
  button.addEventListener("click", () => command(button.dataset.command));
}

const KEYS = { Escape: "stop", ArrowRight: "end", ArrowLeft: "rerecord", s: "success", f: "failure", n: "reset_done" };

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let name = KEYS[key];
  if (key === " ") name = byId("pause").dataset.command;
  if (key === "t") name = byId("helm").dataset.command;
  if (!name) return;
  event.preventDefault();
  if (document.activeElement instanceof HTMLButtonElement && key === " ") document.activeElement.blur();
  if (name === "stop" || !button(name)?.disabled) command(name);
});

const button = (name) => document.querySelector(`button[data-command="${name}"]`);

// -- jogging: a joint moves while its button is held

const held = new Map(); // joint -> share
let jogging = 0;

let joints = []; // known once the robot has opened its arm

function makeJog(names) {
  if (!about.jogs || joints.length || !names.length) return;
  joints = names;
  joints.forEach((joint, index) => {
    const label = document.createElement("span");
    label.textContent = joint.replaceAll("_", " ");
    byId("jog").append(label);
    for (const [sign, words] of [[-1, "−"], [1, "+"]]) {
      const key = document.createElement("button");
      key.textContent = words;
      key.setAttribute("aria-label", `${label.textContent} ${sign > 0 ? "up" : "down"}`);
      key.addEventListener("pointerdown", (event) => { key.setPointerCapture(event.pointerId); press(index, sign); });
      key.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.repeat) press(index, sign); });
      for (const end of ["pointerup", "pointercancel", "keyup", "blur"]) key.addEventListener(end, () => letGo(index));
      byId("jog").append(key);
    }
  });
}

function press(index, sign) {
  held.set(index, sign);
  if (!jogging) { tellJog(); jogging = setInterval(tellJog, 100); }
}

function letGo(index) {
  held.delete(index);
  if (!held.size && jogging) { clearInterval(jogging); jogging = 0; tellJog(); }
}

function tellJog() {
  const shares = joints.map((_, index) => held.get(index) || 0);
  send("/jog", { shares }).catch((error) => say(`jog: ${failure(error)}`, true));
}

// -- what is shown

const STATES = {
  init: "starting", armed: "ready", running: "running", hold: "hold", fault: "fault", done: "done", estop: "stopped",
};
const CALM = { init: "", armed: "", done: "", running: "running", hold: "hold", fault: "fault", estop: "fault" };

const LOOP_S = 1; // as long as the loop may be silent
const standsStill = (s) => !ended && s.phase !== "ended" && s.loop_age_s > LOOP_S;
const ours = (s) => !about.jogs || s.helm === "web";
const fixed = (value, digits) => value === null ? "–" : value.toFixed(digits);

function words(s) {
  if (s.latched) return s.state === "estop" ? "emergency stop" : "fault";
  if (standsStill(s)) return "loop stands still";
  if (s.paused) return "paused";
  if (s.taken_over) return ours(s) ? "in your hands" : `in hand at the ${s.helm}`;
  if (s.matching) return "move the leader to the arm";
  if (s.phase === "reset") return s.waits_for_reset ? "set the scene" : "going back";
  if (s.phase === "label") return "did it succeed?";
  if (s.phase === "release") return "waiting for new weights";
  if (s.phase === "room") return "no room for episodes: waiting for the trainer";
  return STATES[s.state] || s.state;
}

function ask(s) {
  if (s.phase === "label") return "Did the episode succeed?";
  if (s.phase === "reset" && s.waits_for_reset) return "Set the scene, then say so.";
  if (s.phase === "reset") return `The arm goes back: ${Math.round(100 * s.reset_progress)} %`;
  if (s.paused) return "Paused: the arm holds, the episode's clock stands.";
  if (s.matching) return "Bring the leader near the arm; it is waiting.";
  if (s.taken_over) return ours(s) ? "You move the arm." : `The ${s.helm} moves the arm. Hand back, then take over here.`;
  if (s.latched) return "The arm is stopped. Start the run again to go on.";
  return { running: "The policy moves the arm.", setting_up: "The next episode is being prepared." }[s.phase] || "";
}

function text(id, value) {
  const element = byId(id);
  if (element.textContent !== value) element.textContent = value;
}

function show(s) {
  if (s.session !== about.session) { location.reload(); return; } // another run, with another key
  heardS = s.robot_s;
  for (const [tick, ...rest] of s.signals) points.set(tick, rest);
  makeJog(s.joints);
  const pill = byId("state");
  text("state", words(s));
  pill.className = `pill ${s.latched || standsStill(s) ? "fault" : s.paused ? "hold" : CALM[s.state] || ""}`;
  const reason = s.latched || ended ? s.reason : "";
  byId("reason").hidden = !reason;
  text("reason", reason);
  text("episode", s.episode < 0 ? "–" : String(s.episode));
  text("success", s.judged ? `${s.successes} of ${s.judged}` : "–");
  text("clock", s.phase === "running" ? `${fixed(s.episode_s, 1)} s` : "–");
  const share = s.phase === "reset" ? s.reset_progress : s.phase === "running" && s.episode_max_s ? s.episode_s / s.episode_max_s : 0;
  byId("bar").style.width = `${Math.min(100, 100 * share)}%`;
  text("ask", ended ? "This run has ended." : ask(s));
  lights(s);
  for (const name of about.cameras) camera(name, s.cameras[name]);
  details(s);
  draw();
}

function lights(s) {
  const inEpisode = s.phase === "running" || s.phase === "label";
  const dead = ended || s.latched;
  const may = {
    success: inEpisode, failure: inEpisode, end: inEpisode || s.waits_for_reset,
    rerecord: inEpisode || (s.phase === "reset" && s.can_take_back), reset_done: s.phase === "reset" && s.waits_for_reset,
  };
  for (const [name, allowed] of Object.entries(may)) button(name).disabled = dead || !allowed;
  const pause = byId("pause");
  pause.dataset.command = s.paused ? "resume" : "pause";
  pause.firstChild.textContent = s.paused ? "Go on " : "Pause ";
  pause.disabled = dead;
  const helm = byId("helm");
  const mine = s.taken_over || s.matching;
  helm.dataset.command = mine ? "hand_back" : "take_over";
  helm.firstChild.textContent = mine ? "Hand back " : "Take over ";
  helm.disabled = dead || !s.can_take_over || s.phase !== "running";
  byId("jog").hidden = !(mine && about.jogs && ours(s));
  byId("stop").disabled = ended;
}

function details(s) {
  const rows = [
    ["rate", `${fixed(s.rate_hz, 1)} of ${s.rate_wanted_hz} Hz`, s.rate_hz && s.rate_hz < 0.95 * s.rate_wanted_hz],
    ["lateness, p99", `${fixed(s.lateness_p99_ms, 2)} ms`],
    ["last tick", s.loop_age_s === null ? "none yet" : `${fixed(s.loop_age_s, 1)} s ago`, standsStill(s)],
    ["missed ticks", s.missed, s.missed > 0],
    ["gate changed", `${s.gate_changed} commands`],
    ["policy version", s.policy_version || "package"],
    ["reward version", s.reward_version || "package"],
    ["watchdog", s.watchdog === "none" ? (s.watchdog_age_s === null ? "not watching yet" : "watching") : s.watchdog,
      s.watchdog !== "none" || s.watchdog_age_s > 1],
    ["state", s.reason && !s.latched ? `${STATES[s.state]}: ${s.reason}` : STATES[s.state]],
    ["viewers", `${s.viewers}, ${s.viewer_events_dropped} events dropped`],
  ];
  // Each begins with the keys that do nothing on this arm.
  if (s.cautions.length) rows.push(["not in force", s.cautions.map((what) => what.split(" ")[0]).join(", "), true]);
  const list = byId("details");
  while (list.children.length < 2 * rows.length) {
    list.append(document.createElement("div"));
    list.lastChild.append(document.createElement("dt"), document.createElement("dd"));
    if (list.children.length === rows.length) break;
  }
  rows.forEach(([name, value, warn], index) => {
    const [dt, dd] = list.children[index].children;
    if (dt.textContent !== name) dt.textContent = name;
    if (dd.textContent !== String(value)) dd.textContent = String(value);
    dd.className = warn ? "warn" : "";
  });
}

function draw() {
  const canvas = byId("plot");
  const style = getComputedStyle(document.documentElement);
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const left = 30, span = 60;
  const y = (value) => 8 + (1 - value) * 0.5 * (height - 16);
  pen.font = "12px system-ui, sans-serif";
  for (const value of [-1, 0, 1]) {
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.fillStyle = style.getPropertyValue("--quiet");
    pen.beginPath(); pen.moveTo(left, y(value)); pen.lineTo(width, y(value)); pen.stroke();
    pen.fillText(String(value).replace("-", "−"), 4, y(value) + 4);
  }
  const rows = [...points.entries()].sort((a, b) => a[0] - b[0]);
  byId("nosignals").hidden = rows.length > 0;
  if (!rows.length) return;
  const newest = rows[rows.length - 1][1][0];
  for (const [tick, row] of rows) if (newest - row[0] > span + 5) points.delete(tick);
  const x = (at) => width - 6 - ((newest - at) / span) * (width - left - 6);
  [["process", []], ["completion", [7, 4]], ["contrastive", [2, 4]]].forEach(([name, dash], index) => {
    pen.strokeStyle = style.getPropertyValue(`--${name}`);
    pen.lineWidth = 2;
    pen.setLineDash(dash);
    pen.beginPath();
    let before = null;
    for (const [, row] of rows) {
      if (row[index + 1] === null || newest - row[0] > span) continue;
      if (before === null || row[0] - before > 3) pen.moveTo(x(row[0]), y(row[index + 1]));
      else pen.lineTo(x(row[0]), y(row[index + 1]));
      before = row[0];
      text(name, row[index + 1].toFixed(2));
    }
    pen.stroke();
  });
  pen.setLineDash([]);
}

// -- cameras

function camera(name, c) {
  const figure = byId(`camera-${name}`);
  const lost = c.state === "lost" || (c.age_s !== null && c.age_s > 1 && !ended);
  figure.classList.toggle("lost", lost);
  const trouble = ["late", "dropped", "frozen", "errors"].filter((key) => c[key]).map((key) => `${c[key]} ${key}`);
  const age = c.age_s === null ? "" : c.age_s < 1 ? `${Math.round(1000 * c.age_s)} ms old` : `${c.age_s.toFixed(1)} s old`;
  const found = [lost ? c.state === "lost" ? "lost" : "standing still" : "", age, ...trouble].filter(Boolean).join(", ");
  const span = figure.querySelector("figcaption span");
  if (span.textContent !== found) span.textContent = found;
}

// -- the feed

const SILENCE_MS = 1500; // five events a second are usual
const DEAF_MS = 6000;
let heard = performance.now();
let feed = null;

function listen() {
  if (feed) feed.close();
  heard = performance.now();
  feed = new EventSource("/events");
  feed.addEventListener("status", (event) => { heard = performance.now(); show(JSON.parse(event.data)); });
  feed.addEventListener("ended", (event) => { ended = true; feed.close(); show(JSON.parse(event.data)); });
  feed.addEventListener("error", lose);
}

function lose() {
  if (ended) return;
  text("state", "no connection");
  byId("state").className = "pill fault";
}

// A connection whose other end is gone may say nothing for minutes.
setInterval(() => {
  const silent = performance.now() - heard;
  if (ended || silent < SILENCE_MS) return;
  lose();
  if (silent > DEAF_MS || feed.readyState === EventSource.CLOSED) listen();
}, 300);

text("robot", about.robot);
text("task", about.task);
document.title = `${about.robot} – Entracte`;
makeCameras(byId("cameras"), about.cameras);
watchPictures(about.cameras, about.picture_rate_hz, () => ended);
listen();
window.addEventListener("resize", draw);
