"""A server that hands its connection to another process. In: HOST PORT FIRST REPLY. One process accepts and reads FIRST bytes,
passes the socket on (SCM_RIGHTS) and closes its own copy; the other reads the rest to its end and answers REPLY bytes."""
import os
import socket
import sys

host, port, first, reply = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
ours, theirs = socket.socketpair()

worker = os.fork()
if worker == 0:
    ours.close()
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    with socket.socket(fileno=fds[0]) as connection:
        while connection.recv(65536):
            pass
        connection.sendall(b"x" * reply)
    os._exit(0)

theirs.close()
with socket.create_server((host, port)) as listener:
    connection, _ = listener.accept()
with connection:
    left = first
    while left:
        left -= len(connection.recv(left))
    socket.send_fds(ours, [b"!"], [connection.fileno()])
os.waitpid(worker, 0)
