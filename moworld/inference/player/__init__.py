"""The browser player: a page, a WebSocket of frames and keys, and the rules that keep one client from harming another."""
