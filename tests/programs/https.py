"""HTTPS with the ssl module.

serve ADDRESS PORT: serves the folder it runs in, with key.pem and cert.pem; answers POST with what it was sent.
ask ADDRESS:PORT COUNT: fetches, misses and posts so often, on one connection; prints the statuses.
"""

import http.client
import http.server
import ssl
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(address, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


def ask(address, count):
    connection = http.client.HTTPSConnection(address, context=ssl._create_unverified_context())
    statuses = []
    for _ in range(int(count)):
        for method, path, body in [("GET", "/cert.pem", None), ("GET", "/none", None), ("POST", "/posted", b"x" * 5000)]:
            connection.request(method, path, body)
            response = connection.getresponse()
            response.read()
            statuses.append(str(response.status))
    print(*statuses)


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
