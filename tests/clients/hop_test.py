#!/usr/bin/env python3
"""The hop must pass on what comes, byte for byte but for what it adds, and note it."""

import socket
import threading
import unittest

from hop import Hop

LENGTH = b"PUT /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
NONE = b"GET /d HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Takes one connection, reads until its end and answers nothing but `answer`, at the begin."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.answer, self.read = self.listener.getsockname()[1], answer, b""
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        with self.listener, self.listener.accept()[0] as wire:
            wire.sendall(self.answer)
            while piece := wire.recv(65536):
                self.read += piece


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def through(cdn, requests, answer=b"HTTP/1.1 204 No Content\r\n\r\n"):
    """What the app reads and the client hears, and what the hop has noted, if a client sends these bytes."""
    app, port = App(answer), free_port()
    with Hop(port, app.port, cdn) as hop:
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.sendall(requests)
            heard = b""
            while len(heard) < len(answer):
                heard += wire.recv(65536)
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass
        app.thread.join()
        return app.read, heard, hop.requests


class AHop(unittest.TestCase):
    def test_everything_is_passed_on_as_it_comes(self):
        read, heard, noted = through(False, LENGTH + CHUNKED + NONE)
        self.assertEqual((read, heard), (LENGTH + CHUNKED + NONE, b"HTTP/1.1 204 No Content\r\n\r\n"))
        self.assertEqual([(one.method, one.target, one.body) for one in noted], [("PUT", "/a?b", b"hello"), ("POST", "/c", b"abcde"), ("GET", "/d", b"")])

    def test_a_cdn_adds_a_ray_to_each_request_that_no_other_has(self):
        read, _, noted = through(True, LENGTH + NONE + NONE)
        rays = [line for line in read.split(b"\r\n") if line.startswith(b"CF-Ray: ")]
        self.assertEqual((len(rays), len(set(rays))), (3, 3))
        self.assertNotIn("CF-Ray", [name for one in noted for name, _ in one.fields])


if __name__ == "__main__":
    unittest.main()
