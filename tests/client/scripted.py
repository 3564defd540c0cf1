"""A server that answers as a script says, byte for byte: for what a healthy server never does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Scripted:
    """Its address, and what it was asked, head and body, in order."""

    url: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def scripted_server(*answers: bytes) -> Iterator[Scripted]:
    """Answer the n-th connection with the n-th answer and close it, whether the answer was whole or not."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}")
    thread = threading.Thread(target=_answer_all, args=(listener, server, answers))
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes an accept, which close alone does not
        thread.join(10)
        listener.close()


def answer(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Return an HTTP answer; `length` promises more bytes than there are."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _answer_all(listener: socket.socket, server: Scripted, answers: tuple[bytes, ...]) -> None:
    for each in answers:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed by a test that asked less often
            return
        with connection:
            server.requests.append(_read_request(connection))
            connection.sendall(each)
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # from here on nobody is there


def _read_request(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    wanted = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < wanted:
        body += connection.recv(65536)
    return (head + b"\r\n\r\n" + body).decode("latin-1").lower()
