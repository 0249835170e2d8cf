"""Shows a scene file in the browser: a server on the loopback address with one page, gsplat.js (MIT, unchanged, see third_party) and the scene."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from moworld.errors import InputError

HERE = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/gsplat.js": ("third_party/gsplat.js", "text/javascript"),
}
POLICY = "default-src 'self'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src blob:; connect-src 'self' data: blob:; img-src data:; frame-ancestors 'none'"


def server(scene: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of the page and a scene file, .ply or .splat, bound to a port of 127.0.0.1; 0 takes a free one.

    Raises InputError for a scene that cannot be read, and for a port that cannot be used.
    """
    if scene.suffix == ".ply":
        from moworld.applications.splats.files import read_scene

        read_scene(scene)
    try:
        data = scene.read_bytes()
    except OSError as error:
        raise InputError(scene, "", error.strerror or error, "a .ply or .splat scene", "check the path") from None
    pages = {path: ((HERE / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
    pages |= {"/scene": (data, "application/octet-stream"), "/kind": (scene.suffix.removeprefix(".").encode(), "text/plain")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = pages.get(self.path.partition("?")[0], (b"", ""))
            self.send_response(200 if kind else 404)
            for name, value in (("Content-Type", kind or "text/plain"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Keeps requests out of the terminal."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise InputError("--port", "", f"{port}: {error.strerror}", "a free port", "choose another port, or 0") from None


def serve(scene: Path, port: int, ready: Callable[[str], object]) -> None:
    """Serves a scene until the process is interrupted. ready: receives the address."""
    with server(scene, port) as listening:
        ready(f"http://127.0.0.1:{listening.server_port}/")
        listening.serve_forever()
