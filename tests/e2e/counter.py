"""Counts calls, so that a test can tell what was repeated. Runs in the cluster, from a ConfigMap.

ANY /hit/<name>?seconds=N   counts, then answers after N seconds
GET /hits                   what was counted, as JSON
"""

import json
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HITS: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        url = urlsplit(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if url.path.startswith("/hit/"):
            name = url.path.removeprefix("/hit/")
            HITS[name] += 1
            time.sleep(float(parse_qs(url.query).get("seconds", ["0"])[0]))
            self.say({"name": name, "hits": HITS[name]})
        else:
            self.say(dict(HITS))

    def say(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the library's names


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
