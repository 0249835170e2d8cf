"use strict";
// The connection and what it shows. Frames: a header (frame number, number of the newest keys it follows, seconds of its chunk), then JPEG.
const canvas = element("world"), context = canvas.getContext("2d");
const drawnAt = [], latencies = [], waiting = new Map();
const TAKEN_OVER = 4001, IDLE_OR_END = 1001, REFUSED = 1008, TOO_LARGE = 1009, FULL = 1013;
let socket = null, settings = null, hello = null, paused = false, recording = false, picture = 0, drawn = 0, walk = "", attempts = 0;
let own = stored("own"), unsent = null, sentAgain = false, calm = false;

function send(message) { if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); }
function notice(text) { element("notice").textContent = text; }
function problem(text) { element("reason").textContent = text; element("problem").hidden = !text; }
function remember() { writeAddress({ model: settings.model, picture, seed: seedValue(), prompt: element("prompt").value, walk }); }
function seedValue() { return Math.max(0, Math.min(2147483647, Math.floor(Number(element("seed").value) || 0))); }

async function load() {
  const answer = await fetch(withToken("settings")).catch(() => null);
  if (!answer || !answer.ok) { notice(answer ? await answer.text() : "the server does not answer: trying again"); setTimeout(load, 2000); return; }
  settings = await answer.json();
  const asked = readAddress();
  canvas.width = settings.width; canvas.height = settings.height;
  element("model").textContent = settings.model;
  element("prompt").value = asked.prompt ?? settings.prompt;
  element("seed").value = asked.seed;
  walk = asked.walk; picture = asked.picture === null && !own ? 0 : asked.picture;
  if (asked.picture === null && !own) { walk = ""; problem("The picture of this link is on the computer of its sender: choose one."); }
  if (picture !== null && picture >= settings.pictures) picture = 0;
  if (asked.model && asked.model !== settings.model) problem(`This link was made with the model ${asked.model}: ${settings.model} makes another world.`);
  offerKeys(settings.keys);
  offerPictures();
  if (token || returning) connect(); else waitForVisitor("");
}

// A place is taken when the visitor does something: a page that another one opens takes none. A token is such a deed as well.
function waitForVisitor(text) { notice(text); element("enter").hidden = false; element("enter").focus(); }
function enter() { if (!socket && settings) connect(); }

function connect() {
  element("enter").hidden = true;
  notice(attempts ? "connection lost: trying again" : "connecting");
  const mine = socket = new WebSocket(worldAddress());
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => { if (mine === socket) (typeof data === "string" ? receive(JSON.parse(data)) : show(data)); };
  socket.onclose = ({ code, reason }) => { if (mine === socket) ended(code, reason); };
}

async function ended(code, reason) {
  const had = hello !== null;
  socket = hello = null; keysSent = "";
  if (code === TAKEN_OVER || code === REFUSED || code === FULL || reason.startsWith("idle")) return waitForVisitor(reason || "the connection was ended");
  if (code === TOO_LARGE) problem(tooLarge());
  if (had) attempts = 0;
  const answer = await fetch(withToken("settings")).catch(() => null);
  if (answer && answer.status === 401) return notice("The token is not valid any more: open the address that the server prints now.");
  attempts += 1;
  notice("connection lost: trying again");
  setTimeout(() => { if (!socket) connect(); }, Math.min(10000, 250 * 2 ** attempts));
}

function receive(message) {
  if (message.type === "hello") {
    hello = message; attempts = 0;
    sendKeys();
    if (!message.resumed && stored("long")) problem("The server has lost this walk, which was too long for the address: the world begins again.");
    if (message.resumed) notice("");
    else if (own && picture === null) sendPicture(own);
    else if (!unsent) startWorld(walk);
    if (unsent) upload(unsent);
  } else if (message.type === "queue") {
    notice(`All ${message.sessions} places are taken. You are number ${message.place} in the queue; the page goes on by itself.`);
  } else if (message.type === "opened") {
    drawn = 0;
    if (hello && hello.resumed) { picture = message.picture; mark(); hello.resumed = false; }
  } else if (message.type === "numbers") {
    element("interval").textContent = `${message.chunk_interval_ms.toFixed(0)} ms`;
    element("attainment").textContent = `${(100 * message.deadline_attainment).toFixed(1)} %`;
    if (message.frames) { walk = message.walk; stored("long", walk ? null : "1"); remember(); }
    if (message.drift < 1) calm = false;
    element("drifted").hidden = message.drift < 1 || calm;
  } else if (message.type === "error") {
    problem(message.message);
  } else if (message.type === "uploaded") {
    own = message.picture; stored("own", own); picture = null; problem("");
    offerPictures();
    startWorld(sentAgain ? walk : "");
    sentAgain = false;
  } else if (message.type === "recording") {
    const link = element("recording");
    link.href = withToken(message.url); link.hidden = false; link.textContent = `Save recording (${message.frames} frames)`;
    const record = element("origin");
    record.hidden = !message.record;
    if (message.record) { record.href = withToken(message.record); record.textContent = message.signed ? "Save its signed record" : "Save its record"; }
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
  for (const [keys, at] of waiting) if (keys <= followed) { latencies.push(now - at); waiting.delete(keys); drawGraph(); }
  while (latencies.length > 100) latencies.shift();
  if (element("notice").textContent && !paused) notice("");
  send({ type: "shown", frame: number });
  element("fps").textContent = drawnAt.length > 2 ? (1000 * (drawnAt.length - 1) / (now - drawnAt[0])).toFixed(1) : "–";
  if (latencies.length) element("latency").textContent = `${quantile(latencies, 0.95).toFixed(0)} ms`;
}

function quantile(values, share) { return [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))]; }

function drawGraph() {
  const graph = element("graph"), pen = graph.getContext("2d"), width = graph.width / 100, most = Math.max(500, ...latencies);
  pen.clearRect(0, 0, graph.width, graph.height);
  pen.fillStyle = "#4aa8ff";
  latencies.slice(-100).forEach((one, index) => pen.fillRect(index * width, graph.height * (1 - one / most), width - 1, graph.height));
}

function startWorld(keys) {
  if (!hello) { walk = keys; return enter(); }
  drawn = 0; walk = keys; calm = false; waiting.clear(); setPaused(false); element("drifted").hidden = true;
  notice(keys ? "making the walk again" : "opening the world");
  send({ type: "start", prompt: element("prompt").value, seed: seedValue(), picture, walk: keys });
  remember();
}

function mark() {
  for (const button of element("pictures").children) {
    const chosen = button.dataset.picture === String(picture);
    button.className = chosen ? "chosen" : "";
    button.setAttribute("aria-pressed", chosen);
  }
}

function offerPictures() {
  const choices = Array.from({ length: settings.pictures }, (_, number) => [number, withToken(`pictures/${number}`), `Picture ${number + 1}`]);
  if (own) choices.push([null, `data:image/png;base64,${own}`, "Your picture"]);
  element("pictures").replaceChildren(...choices.map(([number, source, text]) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button"; button.dataset.picture = String(number); image.src = source; image.alt = text;
    button.append(image);
    button.onclick = () => { picture = number; mark(); startWorld(""); };
    return button;
  }));
  mark();
}

function setPaused(value) {
  paused = value;
  element("pause").textContent = paused ? "Continue" : "Pause";
  notice(paused ? "paused" : "");
  send({ type: "pause", paused });
}

const tooLarge = () => `The picture is too large: at most ${settings.picture_bytes / 2 ** 20} MiB. Send a smaller file.`;
async function upload(file) {
  if (!file) return problem("That was no file: drop a JPEG, PNG or WebP.");
  if (file.size > settings.picture_bytes) return problem(tooLarge());
  if (!hello) { unsent = file; return enter(); }
  unsent = null; sentAgain = false;
  socket.send(await file.arrayBuffer());
}
function sendPicture(base64) { sentAgain = true; socket.send(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))); }

async function share() {
  remember();
  element("linked").hidden = false;
  element("link").value = sharedLink();
  element("link").select();
  const copied = navigator.clipboard && await navigator.clipboard.writeText(sharedLink()).then(() => true, () => false);
  element("share").textContent = copied ? "Link copied" : "Link is below";
}

element("start").addEventListener("submit", (event) => { event.preventDefault(); document.activeElement.blur(); startWorld(""); });
element("enter").onclick = enter;
element("pause").onclick = () => setPaused(!paused);
element("hold").onclick = () => { calm = true; element("drifted").hidden = true; setPaused(true); };
for (const id of ["reset", "again"]) element(id).onclick = () => startWorld("");
element("dismiss").onclick = () => problem("");
element("share").onclick = share;
element("record").onclick = () => {
  recording = !recording;
  element("record").classList.toggle("on", recording);
  element("record").setAttribute("aria-pressed", recording);
  element("record").textContent = recording ? "Stop recording" : "Record";
  send({ type: "record", on: recording });
};
element("upload").onchange = (event) => { const [file] = event.target.files; event.target.value = ""; if (file) upload(file); };
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });  // otherwise the browser opens the file
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); upload(event.dataTransfer.files[0]); });
load();
