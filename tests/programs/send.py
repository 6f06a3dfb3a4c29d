"""The client's end. In: WAY HOST PORT BYTES. It connects, sends BYTES bytes in that WAY, half-closes, reads the answer to its
end and exits. WAY is the call that moves the bytes."""
import os
import socket
import sys
import tempfile

SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
PIECE = 30_000


def file_of(data):
    file = tempfile.TemporaryFile()
    file.write(data)
    file.flush()
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file


def each_piece(data, send):
    """Calls `send` with what is left, a piece at a time, until all is sent."""
    view = memoryview(data)
    while view:
        view = view[send(view[:PIECE]) :]


def write(connection, data):
    each_piece(data, lambda piece: os.write(connection.fileno(), piece))


def writev(connection, data):
    each_piece(data, lambda piece: os.writev(connection.fileno(), [piece[:7], piece[7:]]))


def send(connection, data):
    each_piece(data, connection.send)


def sendmsg(connection, data):
    each_piece(data, lambda piece: connection.sendmsg([piece[:11], piece[11:]]))


def sendfile(connection, data):
    with file_of(data) as file:
        sent = 0
        while sent < len(data):
            sent += os.sendfile(connection.fileno(), file.fileno(), sent, PIECE)


def splice(connection, data):
    read_end, write_end = os.pipe()
    with file_of(data) as file:
        left = len(data)
        while left:
            piped = os.splice(file.fileno(), write_end, min(left, PIECE))
            left -= piped
            while piped:
                piped -= os.splice(read_end, connection.fileno(), piped)


def zerocopy(connection, data):
    connection.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    each_piece(data, lambda piece: connection.send(piece, MSG_ZEROCOPY))


way, host, port, size = globals()[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with socket.create_connection((host, port)) as client:
    way(client, b"x" * size)
    client.shutdown(socket.SHUT_WR)
    while client.recv(65536):
        pass
