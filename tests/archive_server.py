"""Serves one file over HTTP on 127.0.0.1 as a download server does, or with its faults, and counts what it sends.

    python tests/archive_server.py ARCHIVE.zip [--port 8765]

and then COURSE_ARCHIVE_URL=http://127.0.0.1:8765/archive.zip for whoever should read from it.
"""

import argparse
import logging
import threading
from contextlib import contextmanager
from pathlib import Path

from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.serving import make_server
from werkzeug.utils import send_file


class ArchiveServer:
    """`ranges=False`: no Range support. `cut={2: 1000}`: the third answer breaks off after 1000 bytes.

    `instead`: a WSGI application that answers every request, such as a log-in page.
    """

    def __init__(self, file: Path, ranges: bool = True, cut: dict[int, int] | None = None, instead=None):
        self.file, self.ranges, self.cut, self.instead = Path(file).absolute(), ranges, cut or {}, instead
        self.requests: list[str | None] = []  # the Range header of each request
        self.sent = 0  # bytes

    def __call__(self, environ, start_response):
        number = len(self.requests)
        self.requests.append(environ.get("HTTP_RANGE"))
        if self.instead:
            return self.instead(environ, start_response)
        if not self.ranges:
            environ.pop("HTTP_RANGE", None)
        try:
            if environ["PATH_INFO"] != "/archive.zip" or not self.file.exists():
                raise NotFound
            answer = send_file(self.file, environ, mimetype="application/zip", conditional=True)
        except HTTPException as answer:  # 404 or 416
            return answer(environ, start_response)
        return self.count(answer(environ, start_response), self.cut.get(number))

    def count(self, blocks, limit):
        for block in blocks:
            block = block if limit is None else block[:limit]
            self.sent += len(block)
            yield block
            if limit is not None and (limit := limit - len(block)) <= 0:
                raise ConnectionResetError  # the server hangs up without having sent all it promised


@contextmanager
def serve(file: Path, port: int = 0, **faults):
    """Yields the running ArchiveServer; its `.url` is the archive's address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = ArchiveServer(file, **faults)
    server = make_server("127.0.0.1", port, app, threaded=True)
    app.url = f"http://127.0.0.1:{server.server_port}/archive.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve an archive on 127.0.0.1, with Range support.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    with serve(arguments.file, arguments.port) as running:
        print(running.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{len(running.requests)} requests, {running.sent} bytes")
