"use strict";
// Sends keys when they change. Receives frames: a header (frame number, number of the newest keys it follows, seconds of its chunk), then JPEG.
const element = (id) => document.getElementById(id);
const canvas = element("world"), context = canvas.getContext("2d");
const codes = { KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyI: "i", KeyJ: "j", KeyK: "k", KeyL: "l",
                ArrowUp: "w", ArrowDown: "s", ArrowLeft: "j", ArrowRight: "l" };
const held = { keyboard: new Map(), touch: new Map(), gamepad: new Map() };
const drawnAt = [], latencies = [], waiting = new Map();
let socket, keysNumber = 0, keysSent = "", paused = false, recording = false, picture = 0, drawn = 0, hello = null, ended = "";

function send(message) { if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); }
function notice(text) { element("notice").textContent = text; }

function connect() {
  const address = new URL(`world${location.search}`, location.href);  // with the token of the page's address
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? receive(JSON.parse(data)) : show(data));
  socket.onclose = () => { notice(ended || "connection lost: reload the page"); hello = null; };
}

function receive(message) {
  if (message.type === "hello") {
    hello = message;
    canvas.width = message.width; canvas.height = message.height;
    element("prompt").value = message.prompt;
    offer(message.pictures);
    start();
  } else if (message.type === "numbers") {
    element("interval").textContent = `${message.chunk_interval_ms.toFixed(0)} ms`;
    element("attainment").textContent = `${(100 * message.deadline_attainment).toFixed(1)} %`;
  } else if (message.type === "error") {
    ended = message.message; notice(message.message);
  } else if (message.type === "uploaded") {
    picture = null; start();
  } else if (message.type === "recording") {
    const link = element("recording");
    link.href = message.url + location.search; link.hidden = false; link.textContent = `Save recording (${message.frames} frames)`;
  }
}

async function show(data) {
  const view = new DataView(data), number = view.getUint32(0), followed = view.getUint32(4);
  const image = await createImageBitmap(new Blob([new Uint8Array(data, 16)], { type: "image/jpeg" }));
  if (number < drawn && number !== 1) return image.close();  // a newer frame was drawn
  context.drawImage(image, 0, 0);
  image.close();
  drawn = number;
  const now = performance.now();
  drawnAt.push(now);
  while (drawnAt[0] < now - 2000) drawnAt.shift();
  for (const [keys, at] of waiting) if (keys <= followed) { latencies.push(now - at); waiting.delete(keys); }
  while (latencies.length > 100) latencies.shift();
  if (element("notice").textContent && !paused) notice("");
  send({ type: "shown", frame: number });
  element("fps").textContent = drawnAt.length > 2 ? (1000 * (drawnAt.length - 1) / (now - drawnAt[0])).toFixed(1) : "–";
  if (latencies.length) element("latency").textContent = `${quantile(latencies, 0.95).toFixed(0)} ms`;
}

function quantile(values, share) { return [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))]; }

function start() {
  const seed = Math.max(0, Math.min(2147483647, Math.floor(Number(element("seed").value) || 0)));
  ended = ""; drawn = 0; waiting.clear(); setPaused(false); notice("opening the world");
  send({ type: "start", prompt: element("prompt").value, seed, picture });
}

function offer(count) {
  element("pictures").replaceChildren(...Array.from({ length: count }, (_, number) => {
    const image = new Image();
    image.src = `pictures/${number}${location.search}`; image.alt = `picture ${number + 1}`;
    image.className = number === 0 ? "chosen" : "";
    image.onclick = () => {
      picture = number;
      for (const other of element("pictures").children) other.className = other === image ? "chosen" : "";
      start();
    };
    return image;
  }));
}

function sendKeys() {
  const keys = [...new Set([...held.keyboard.values(), ...held.touch.values(), ...held.gamepad.values()].join(""))].sort().join("").slice(0, 8);
  if (keys === keysSent || !hello) return;
  keysSent = keys; keysNumber += 1;
  if (!paused) waiting.set(keysNumber, performance.now());
  send({ type: "keys", keys, number: keysNumber });
}

function setPaused(value) {
  paused = value;
  element("pause").textContent = paused ? "Continue" : "Pause";
  notice(paused ? "paused" : "");
  send({ type: "pause", paused });
}

const typing = (event) => event.target instanceof HTMLInputElement && event.target.type !== "file";
addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.code === "Space" && !(event.target instanceof HTMLButtonElement)) { event.preventDefault(); if (!event.repeat) setPaused(!paused); return; }
  if (codes[event.code]) { event.preventDefault(); held.keyboard.set(event.code, codes[event.code]); sendKeys(); }
});
addEventListener("keyup", (event) => { held.keyboard.delete(event.code); sendKeys(); });
addEventListener("blur", () => { held.keyboard.clear(); held.touch.clear(); sendKeys(); });

for (const button of document.querySelectorAll("#pads button")) {
  const press = (event) => { event.preventDefault(); button.setPointerCapture(event.pointerId); button.classList.add("held"); held.touch.set(button, button.dataset.keys); sendKeys(); };
  const release = () => { button.classList.remove("held"); held.touch.delete(button); sendKeys(); };
  button.addEventListener("pointerdown", press);
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(kind, release);
}

function readGamepad() {
  const pad = [...(navigator.getGamepads ? navigator.getGamepads() : [])].find(Boolean);
  held.gamepad.clear();
  if (pad) {
    const axis = (index, low, high) => (pad.axes[index] < -0.4 ? low : pad.axes[index] > 0.4 ? high : "");
    [axis(0, "a", "d"), axis(1, "w", "s"), axis(2, "j", "l"), axis(3, "i", "k")].forEach((key, index) => key && held.gamepad.set(index, key));
    sendKeys();
  }
  requestAnimationFrame(readGamepad);
}
addEventListener("gamepadconnected", readGamepad, { once: true });

element("start").addEventListener("submit", (event) => { event.preventDefault(); document.activeElement.blur(); start(); });
element("pause").onclick = () => setPaused(!paused);
element("record").onclick = () => {
  recording = !recording;
  element("record").classList.toggle("on", recording);
  element("record").textContent = recording ? "Stop recording" : "Record";
  send({ type: "record", on: recording });
};
async function upload(file) { if (file && socket.readyState === WebSocket.OPEN) socket.send(await file.arrayBuffer()); }
element("upload").onchange = (event) => upload(event.target.files[0]);
addEventListener("dragover", (event) => event.preventDefault());  // otherwise the browser opens a dropped file itself
addEventListener("drop", (event) => { event.preventDefault(); upload(event.dataTransfer.files[0]); });
connect();
