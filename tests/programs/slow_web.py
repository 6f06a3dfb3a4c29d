"""A web server that takes its time. In: ADDRESS PORT. It waits as many milliseconds as the path says before the first byte of the
answer, which is how long that really took, in nanoseconds; on connections that stay open."""
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        begin = time.monotonic_ns()
        time.sleep(int(self.path[1:]) / 1000)
        took = str(time.monotonic_ns() - begin).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(took)))
        self.end_headers()
        self.wfile.write(took)

    def log_message(self, *_):
        pass


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Slow).serve_forever()
