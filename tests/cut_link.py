"""A link between two programs that a test can cut: TCP, passed on by threads.

with CutLink(port_of_the_server) as link:
    client.connect(link.port)
    link.cut()
    link.mend()
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class CutLink:
    """Passes connections on to ``target`` (a port of this machine), until it is cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._is_deaf = False
        self._is_breaking = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Break all connections, and each new one at once."""
        with self._lock:
            self._is_cut = True
            for each in self._open:
                _end(each)

    def deafen(self) -> None:
        """From now on requests get through, and answers are swallowed."""
        self._is_deaf = True

    def break_answers(self) -> None:
        """From now on requests get through, and connections break where answers begin."""
        self._is_breaking = True

    def mend(self) -> None:
        """Pass everything on again. Connections whose answers were swallowed break."""
        with self._lock:
            if self._is_deaf:
                for each in self._open:
                    _end(each)
            self._is_cut = self._is_deaf = self._is_breaking = False

    def _start(self, run: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        with contextlib.ExitStack() as sockets:
            sockets.enter_context(near)
            sockets.enter_context(contextlib.suppress(OSError))
            far = sockets.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            pair = {near, far}
            with self._lock:
                if self._is_cut:
                    return
                self._open |= pair
            back = self._start(self._pass_on, far, near, True)
            self._pass_on(near, far, False)
            back.join()
            with self._lock:
                self._open -= pair

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self._is_breaking:
                    break
                if not (is_answer and self._is_deaf):
                    sink.sendall(data)
        _end(source)
        _end(sink)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
