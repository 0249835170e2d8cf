"use strict";
// Adds the token to the address and keeps its fragment, which names the walk of a shared link.
document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  location.search = new URLSearchParams({ token: document.getElementById("token").value.trim() });
});
