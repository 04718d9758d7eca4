"""A chat endpoint on loopback that speaks the protocol, and misbehaves as a test wishes."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class Asked:
    """One chat request as the server saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    number: int  # how many requests about this neuron came before it
    neuron: int  # see `neuron_of`

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.body["messages"][0]["content"]

    @property
    def text(self) -> str:
        return next(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def pictures(self) -> list[Image.Image]:
        urls = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in urls]


@dataclass
class Say:
    """A response. `cut` breaks the connection in the middle of the body; `slow` waits before it, in seconds."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    slow: float = 0.0


Behave = Callable[[Asked], Say]


def chat(content: object, **more: Any) -> Say:
    """An ordinary answer."""
    usage = more.pop("usage", {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107})
    first = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    first |= more.pop("choice", {})
    body = {"id": "1", "object": "chat.completion", "model": "tiny-vl-1", "system_fingerprint": "fp_7"} | more
    return Say(body=json.dumps(body | {"choices": [first], "usage": usage}).encode())


def error(status: int, message: str, **more: Any) -> Say:
    """An error as OpenAI and vLLM write it."""
    headers = more.pop("headers", {})
    return Say(status, json.dumps({"error": {"message": message, "type": "x", **more}}).encode(), headers)


class Server:
    """A running endpoint: what it was asked, and at most how many requests at once."""

    def __init__(self, behave: Behave, models: Say | None) -> None:
        self.behave = behave
        self.models = models or Say(body=json.dumps({"object": "list", "data": [{"id": "tiny-vl"}]}).encode())
        self.asked: list[Asked] = []
        self.listed: list[dict[str, str]] = []
        self.most = 0
        self.connections: set[tuple[str, int]] = set()
        self._now = 0
        self._lock = threading.Lock()
        self._released = threading.Event()  # ends the waiting of slow answers with the test
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.listed.append(dict(self.headers))
                self.reply(server.models if self.path == "/v1/models" else Say(404))

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                with server._entered():
                    server.connections.add(self.client_address)
                    asked = server._remember(json.loads(data), dict(self.headers))
                    self.reply(server.behave(asked) if self.path == "/v1/chat/completions" else Say(404))

            def reply(self, say: Say) -> None:
                if say.slow:
                    server._released.wait(say.slow)
                self.send_response(say.status)
                self.send_header("Content-Length", str(len(say.body)))
                for name, value in say.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(say.body[: len(say.body) // 2] if say.cut else say.body)
                    if say.cut:
                        self.close_connection = True
                except OSError:  # whoever asked did not wait
                    self.close_connection = True

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Close the door, and every connection that is open."""
        self._released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.hang_up()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def _remember(self, body: dict[str, Any], headers: dict[str, str]) -> Asked:
        asked = Asked(body, headers, 0, -1)
        asked.neuron = neuron_of(asked)
        with self._lock:
            asked.number = sum(earlier.neuron == asked.neuron for earlier in self.asked)
            self.asked.append(asked)
        return asked


class _Quiet(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def colour_of(neuron: int) -> tuple[int, int, int]:
    """The colour by which the server knows neuron 0 to 255, whatever JPEG does to it."""
    return 16 * (neuron % 16), 16 * (neuron // 16), 128


def neuron_of(asked: Asked) -> int:
    """The neuron whose colour the first picture shows near its left border; -1 without pictures."""
    pictures = asked.pictures
    if not pictures:
        return -1
    red, green, _ = pictures[0].convert("RGB").getpixel((4, 30))
    return round(red / 16) + 16 * round(green / 16)


@contextmanager
def serving(behave: Behave, models: Say | None = None) -> Iterator[Server]:
    """Serve until the block ends."""
    server = Server(behave, models)
    try:
        yield server
    finally:
        server.stop()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.002)
