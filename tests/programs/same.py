"""The same requests as same.go and same.js: with asyncio, and with gRPC in clear or through TLS.

asyncio|grpc|grpcs serve ADDRESS:PORT: serves, through TLS with key.pem and cert.pem of the folder it runs in.
asyncio|grpc|grpcs ask ADDRESS:PORT VERSION REQUEST...: posts, on one connection; prints the statuses.
"""

import asyncio
import ssl
import sys
from concurrent import futures


async def asyncio_answer(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def asyncio_serve(address, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    server = await asyncio.start_server(asyncio_answer, address, port, ssl=context)
    print("ready", flush=True)
    await server.serve_forever()


async def asyncio_ask(address, port, paths):
    reader, writer = await asyncio.open_connection(address, port, ssl=ssl._create_unverified_context())
    statuses = []
    for path in paths:
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nquestion" % path.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(6)
        statuses.append(head.split(b" ")[1].decode())
    writer.close()
    print(*statuses)


def grpc_serve(address, secure):
    import grpc

    class Answer(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda question, context: b"answer")

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Answer()])
    if secure:
        pair = (open("key.pem", "rb").read(), open("cert.pem", "rb").read())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def grpc_ask(address, secure, paths):
    import grpc

    if secure:
        credentials = grpc.ssl_channel_credentials(open("cert.pem", "rb").read())
        options = [("grpc.ssl_target_name_override", "test")]
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address)
    for path in paths:
        assert channel.unary_unary(path)(b"question", timeout=10) == b"answer"
    channel.close()
    print(*["200"] * len(paths))


kind, what, address, *rest = sys.argv[1:]
if kind == "asyncio":
    host, _, port = address.rpartition(":")
    asyncio.run(asyncio_serve(host, port) if what == "serve" else asyncio_ask(host, port, rest[1:]))
elif what == "serve":
    grpc_serve(address, kind == "grpcs")
else:
    grpc_ask(address, kind == "grpcs", rest[1:])
