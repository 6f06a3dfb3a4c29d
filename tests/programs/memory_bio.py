"""TLS of the library in memory, with bytes that this program carries to a socket, late.

ask ADDRESS:PORT OTHER:PORT: posts twice on one connection; the first time it writes to another server before it sends
what the library made of the request. Prints the statuses.
"""

import socket
import ssl
import sys


def connect(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


class Session:
    def __init__(self, address):
        self.socket = connect(address)
        self.coming, self.going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = ssl._create_unverified_context().wrap_bio(self.coming, self.going)
        self.until_done(self.tls.do_handshake)

    def send(self):
        if self.going.pending:
            self.socket.sendall(self.going.read())

    def until_done(self, call):
        while True:
            try:
                result = call()
                self.send()
                return result
            except ssl.SSLWantReadError:
                self.send()
                self.coming.write(self.socket.recv(65536))

    def post(self, path, before_sending=lambda: None):
        self.tls.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nquestion" % path)
        before_sending()
        self.send()
        return self.until_done(lambda: self.tls.read(65536)).split(b" ")[1].decode()


session = Session(sys.argv[2])
other = connect(sys.argv[3])
statuses = [session.post(b"/late", lambda: other.sendall(b"something else")), session.post(b"/at-once")]
print(*statuses)
