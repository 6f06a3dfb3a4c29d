"""One end of a TCP connection in a process of its own. In: HOST PORT REPLY. It accepts once, reads to the end, answers
REPLY bytes and exits."""
import socket
import sys

host, port, reply = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.create_server((host, port), family=family) as listener:
    connection, _ = listener.accept()
with connection:
    while connection.recv(65536):
        pass
    connection.sendall(b"x" * reply)
