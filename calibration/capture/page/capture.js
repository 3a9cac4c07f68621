"use strict";

const about = JSON.parse(document.body.dataset.about);
const byId = (id) => document.getElementById(id);
const wanted = about.wanted;
let ended = false;

function text(id, value) {
  const element = byId(id);
  if (element.textContent !== value) element.textContent = value;
}

function make(kind, parent, className = "", words = "") {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (words) element.textContent = words;
  parent.append(element);
  return element;
}

// -- each camera's picture, and what is drawn over it

function makeOverlays() {
  for (const name of about.cameras) {
    const figure = byId(`camera-${name}`);
    const frame = document.createElement("div");
    frame.className = "frame";
    const image = figure.querySelector("img");
    image.before(frame);
    frame.append(image);
    make("canvas", frame);
    // The board's outline is a share of the picture: the frame is of its shape.
    image.addEventListener("load", () => { image.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`; });
  }
}

function sharp(canvas) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  return [pen, width, height];
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

function overlay(name, camera, target) {
  const [pen, width, height] = sharp(byId(`camera-${name}`).querySelector("canvas"));
  pen.fillStyle = colour("--completion");
  pen.globalAlpha = 0.25;
  camera.cells.forEach((row, y) => row.forEach((seen, x) => {
    const [wide, high] = [width / row.length, height / camera.cells.length];
    if (seen) pen.fillRect(x * wide, y * high, wide, high);
  }));
  pen.globalAlpha = 1;
  pen.fillStyle = "#4bb8e8";
  for (const [x, y] of camera.corners) { pen.beginPath(); pen.arc(x * width, y * height, 2.5, 0, 7); pen.fill(); }
  if (!target) return;
  for (const [stroke, wide] of [["#000", 5], ["#ffb02e", 3]]) { // on bright and on dark pictures
    pen.strokeStyle = stroke;
    pen.lineWidth = wide;
    pen.setLineDash([10, 6]);
    pen.beginPath();
    target.forEach(([x, y], at) => (at ? pen.lineTo(x * width, y * height) : pen.moveTo(x * width, y * height)));
    pen.closePath();
    pen.stroke();
  }
  const [[x, y]] = target; // its first corner: which way up
  pen.setLineDash([]);
  pen.fillStyle = "#ffb02e";
  pen.beginPath(); pen.arc(x * width, y * height, 6, 0, 7); pen.fill();
}

// -- how far each camera is

const METERS = [ // name, value in words, how much of what is wanted, whether that is all; null: not told
  ["picture covered", (c) => [`${Math.round(100 * c.covered)} %`, c.covered, false]],
  ["tilts", (c) => c.stands ? [`${c.tilts_deg.map((v) => v.toFixed(0)).join(" to ")} deg`, null, false] : null],
  ["hand turned, first axis", (c) => turned(c, 0)],
  ["hand turned, second axis", (c) => turned(c, 1)],
  ["hand turned, third axis", (c) => c.stands && !about.lens_only ? [`${c.turns_deg[2].toFixed(1)} deg`, null, false] : null],
  ["place, 95 %", (c) => sure(c.interval_mm, wanted.interval_mm, "mm")],
  ["turn, 95 %", (c) => sure(c.interval_deg, wanted.interval_deg, "deg")],
];

function turned(c, axis) {
  if (!c.stands || about.lens_only) return null;
  const share = c.turns_deg[axis] / wanted.turn_deg;
  return [`${c.turns_deg[axis].toFixed(1)} of ${wanted.turn_deg} deg`, share, share >= 1];
}

function sure(value, want, unit) {
  if (about.lens_only) return null;
  if (value === null) return [`no result yet, want ± ${want} ${unit}`, 0, false];
  return [`± ${value.toFixed(2)} ${unit}, want ${want}`, want / value, value <= want];
}

function makeProgress() {
  for (const name of about.cameras) {
    const article = make("article", byId("progress"));
    article.id = `progress-${name}`;
    make("h2", article, "", name);
    const sides = make("canvas", article);
    sides.setAttribute("role", "img");
    sides.setAttribute("aria-label", `sides from which ${name} saw the board`);
    const meters = make("div", article, "meters");
    for (const [words] of METERS) {
      const meter = make("div", meters, "meter");
      make("b", meter);
      make("span", meter, "", words);
      make("i", make("div", meter, "bar"));
    }
  }
}

function showProgress(name, camera) {
  const article = byId(`progress-${name}`);
  article.querySelector("h2").textContent = `${name}: ${camera.stands ? `${camera.stands} stands` : "has not seen the board yet"}`;
  [...article.querySelectorAll(".meter")].forEach((meter, at) => {
    const found = METERS[at][1](camera);
    meter.hidden = !found;
    if (!found) return;
    const [words, share, enough] = found;
    meter.querySelector("b").textContent = words;
    meter.querySelector(".bar").hidden = share === null;
    meter.querySelector("i").style.width = `${100 * Math.min(1, share || 0)}%`;
    meter.classList.toggle("enough", enough);
  });
  drawSides(article.querySelector("canvas"), camera.sides);
}

// The board from above: the middle looks straight at it, the rim from 60 degrees aside.
function drawSides(canvas, sides) {
  const [pen, width, height] = sharp(canvas);
  const rim = Math.sin(Math.PI / 3);
  const radius = Math.min(width, height) / 2 - 14;
  const at = (share) => share / rim * radius;
  pen.translate(width / 2, height / 2);
  pen.font = "11px system-ui, sans-serif";
  for (const degrees of [20, 40, 60]) {
    const r = at(Math.sin(degrees * Math.PI / 180));
    pen.strokeStyle = colour("--line");
    pen.beginPath(); pen.arc(0, 0, r, 0, 7); pen.stroke();
    pen.fillStyle = colour("--quiet");
    pen.fillText(`${degrees}°`, 2, -r + 11);
  }
  pen.fillStyle = colour("--process");
  for (const [x, y] of sides) { pen.beginPath(); pen.arc(at(x), at(y), 4, 0, 7); pen.fill(); }
}

// -- the whole

let said = "";

function show(s) {
  ended = s.ended;
  const p = s.progress;
  const pill = byId("state");
  text("state", ended ? "ended" : p.cameras ? "capturing" : "starting");
  pill.className = `pill ${ended ? "" : "running"}`;
  const stands = p.stands || 0;
  text("stands", `${stands} of ${about.stands}`);
  byId("bar").style.width = `${Math.min(100, 100 * stands / about.stands)}%`;
  text("rejected", Object.entries(s.rejected).map(([what, count]) => `${count} × ${what}`).join(", ") || "none");
  text("next", ended ? "The capture has ended." : s.next || "–");
  text("status", ended ? "" : [s.status, s.why && `not taken: ${s.why}`].filter(Boolean).join("; "));
  const missing = [...(p.missing || [])];
  if (stands < about.stands) missing.push(`${about.stands - stands} of ${about.stands} stands`);
  const list = byId("missing");
  if (list.dataset.said !== missing.join("\n")) {
    list.dataset.said = missing.join("\n");
    list.replaceChildren();
    for (const one of missing.length ? missing : ["nothing"]) make("li", list, "", one);
  }
  for (const name of about.cameras) {
    const camera = (p.cameras || {})[name];
    if (!camera) continue;
    overlay(name, camera, ended ? null : s.targets[name]);
    showProgress(name, camera);
  }
  const lines = s.lines.join("\n");
  if (lines !== said) {
    said = lines;
    const log = byId("lines");
    log.textContent = lines;
    log.scrollTop = log.scrollHeight;
  }
}

const EVERY_MS = 500;

async function look() {
  while (!ended) {
    try {
      const response = await fetch("/status", { signal: AbortSignal.timeout(3000) });
      if (!response.ok) throw new Error(response.status);
      show(await response.json());
    } catch {
      text("state", "no connection");
      byId("state").className = "pill fault";
      text("status", "Nobody answers: the capture has ended, or its terminal was closed.");
    }
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
}

text("title", about.title);
makeCameras(byId("cameras"), about.cameras);
makeOverlays();
makeProgress();
watchPictures(about.cameras, about.picture_rate_hz, () => ended);
look();
