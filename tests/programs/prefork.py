"""A pre-fork server. In: HOST PORT WORKERS. Its workers share the listening socket; each reads a request of 10 bytes, answers
its own pid in 10 characters and closes. It runs until it is killed."""
import os
import signal
import socket
import sys

host, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
listener = socket.create_server((host, port), backlog=128)
for _ in range(workers):
    if os.fork() == 0:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10, socket.MSG_WAITALL)
                connection.sendall(b"%10d" % os.getpid())
while True:
    signal.pause()
