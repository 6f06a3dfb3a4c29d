"""A server that accepts late. In: HOST PORT. It listens; a child of its own waits for SIGUSR1, accepts one connection, reads 10
bytes, answers its own pid in 10 characters and closes. Then both end."""
import os
import signal
import socket
import sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
child = os.fork()
if child == 0:
    signal.sigwait({signal.SIGUSR1})
    connection, _ = listener.accept()
    with connection:
        connection.recv(10, socket.MSG_WAITALL)
        connection.sendall(b"%10d" % os.getpid())
    os._exit(0)
os.waitpid(child, 0)
