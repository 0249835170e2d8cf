"use strict";
// Keyboard, touch pads, gamepad and mouse: which keys are held. Only keys that the model has learned are sent.
const codes = { KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyI: "i", KeyJ: "j", KeyK: "k", KeyL: "l",
                ArrowUp: "w", ArrowDown: "s", ArrowLeft: "j", ArrowRight: "l" };
const held = { keyboard: new Map(), touch: new Map(), gamepad: new Map(), mouse: new Map() };
const MOUSE_PIXELS = 4, MOUSE_MS = 150;  // a movement of so many pixels turns for so long
let offered = "wasdjl", keysNumber = 0, keysSent = "";

function heldKeys() {
  const all = new Set(Object.values(held).flatMap((one) => [...one.values()]).join(""));
  return [...all].filter((key) => offered.includes(key)).sort().join("");
}

function sendKeys() {
  const keys = heldKeys();
  if (keys === keysSent || !hello) return;
  keysSent = keys; keysNumber += 1;
  if (!paused) waiting.set(keysNumber, performance.now());
  send({ type: "keys", keys, number: keysNumber });
}

const typing = (event) => event.target instanceof HTMLInputElement && event.target.type !== "file";
addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.code === "Space" && !(event.target instanceof HTMLButtonElement)) { event.preventDefault(); if (!event.repeat) setPaused(!paused); return; }
  if (event.code === "KeyR" && !event.repeat) return startWorld("");
  if (event.code === "KeyF" && !event.repeat) return toggleFullscreen();
  if (codes[event.code] && offered.includes(codes[event.code])) {
    event.preventDefault();
    held.keyboard.set(event.code, codes[event.code]);
    enter();
    sendKeys();
  }
});
addEventListener("keyup", (event) => { held.keyboard.delete(event.code); sendKeys(); });
addEventListener("blur", () => { for (const one of Object.values(held)) one.clear(); sendKeys(); });

for (const button of document.querySelectorAll("#pads button")) {
  const press = (event) => { event.preventDefault(); button.setPointerCapture(event.pointerId); button.classList.add("held"); held.touch.set(button, button.dataset.keys); enter(); sendKeys(); };
  const release = () => { button.classList.remove("held"); held.touch.delete(button); sendKeys(); };
  button.addEventListener("pointerdown", press);
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(kind, release);
  button.addEventListener("keydown", (event) => { if (event.code === "Enter" || event.code === "Space") { event.preventDefault(); held.touch.set(button, button.dataset.keys); enter(); sendKeys(); } });
  button.addEventListener("keyup", release);
}

function offerKeys(keys) {
  offered = keys;
  const looks = keys.includes("i") && keys.includes("k");
  element("looking").hidden = !looks;
  for (const button of document.querySelectorAll("#pads button")) if (!keys.includes(button.dataset.keys)) button.remove();
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

const releases = new Map();
function turnByMouse(axis, moved, low, high) {
  if (Math.abs(moved) < MOUSE_PIXELS) return;
  held.mouse.set(axis, moved < 0 ? low : high);
  clearTimeout(releases.get(axis));
  releases.set(axis, setTimeout(() => { held.mouse.delete(axis); sendKeys(); }, MOUSE_MS));
  sendKeys();
}
addEventListener("mousemove", (event) => {
  if (document.pointerLockElement !== canvas) return;
  turnByMouse("x", event.movementX, "j", "l");
  turnByMouse("y", event.movementY, "i", "k");
});
element("mouse").onclick = () => { enter(); canvas.requestPointerLock(); };  // Escape ends it

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (element("view").requestFullscreen) element("view").requestFullscreen();
}
element("fullscreen").onclick = toggleFullscreen;
