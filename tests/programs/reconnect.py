"""One TCP socket with several lives. In: HOST PORTS SENT READ, PORTS with commas between them. For each port in turn the socket
connects, sends SENT bytes, reads READ bytes or to the end, and is disconnected as connect(AF_UNSPEC) does; at last it closes."""
import ctypes
import socket
import struct
import sys

host, ports, sent, read = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
UNSPECIFIED = struct.pack("H14x", socket.AF_UNSPEC)

client = socket.socket()
for life, port in enumerate(ports):
    if life and libc.connect(client.fileno(), UNSPECIFIED, len(UNSPECIFIED)):
        raise OSError(ctypes.get_errno(), "disconnect")
    client.connect((host, int(port)))
    client.sendall(b"x" * sent)
    client.recv(read, socket.MSG_WAITALL)
client.close()
