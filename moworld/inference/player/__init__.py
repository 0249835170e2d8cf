"""Browser player: a page, a WebSocket of frames and keys, and limits that keep one client from disturbing another."""
