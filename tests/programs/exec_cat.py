"""A process that becomes another program with its connection open. In: PROTOCOL HOST PORT BYTES. It connects (tcp or udp), sends
BYTES bytes, waits for an answer of one byte and is `cat` from then on: what it receives it sends back."""
import os
import socket
import sys

protocol, host, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
connection = socket.socket(socket.AF_INET, kind)
connection.connect((host, port))
connection.sendall(b"x" * size)
connection.recv(1)
os.dup2(connection.fileno(), 0)
os.dup2(connection.fileno(), 1)
os.execvp("cat", ["cat"])
