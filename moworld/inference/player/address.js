"use strict";
// What the page is and where its walk is: the fragment of the address has model, picture, seed, prompt and walk (the keys so far), so that a
// reload or a shared link makes the same world again. The token stays in the query and is never part of a link.
const element = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";

function stored(name, value) {  // in this tab; a browser may forbid it, then a reload only has the address
  try {
    if (value === undefined) return sessionStorage.getItem(name);
    if (value === null) sessionStorage.removeItem(name); else sessionStorage.setItem(name, value);
  } catch { return null; }
  return value;
}

const returning = stored("session") !== null;
const session = stored("session") || stored("session", [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""))
  || "";

function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1)), number = Number(values.get("picture"));
  const own = values.get("picture") === "own";
  return { model: values.get("model") || "", seed: values.get("seed") || "0", prompt: values.get("prompt"), walk: values.get("walk") || "",
           picture: own ? null : Number.isInteger(number) && number > 0 ? number : 0 };
}

function writeAddress(state) {
  const values = { model: state.model, picture: state.picture === null ? "own" : state.picture, seed: state.seed };
  if (state.prompt) values.prompt = state.prompt;
  if (state.walk) values.walk = state.walk;
  history.replaceState(null, "", `${location.pathname}${location.search}#${new URLSearchParams(values)}`);
}

const sharedLink = () => `${location.origin}${location.pathname}${location.hash}`;  // without the query, which has the token
const withToken = (path) => (token ? `${path}?${new URLSearchParams({ token })}` : path);

function worldAddress() {
  const address = new URL("world", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.hash = "";
  const values = { ...(token && { token }), ...(session && { session }) };
  address.search = new URLSearchParams(values);
  return address;
}
