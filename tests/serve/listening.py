"""An application that listens on a port of this machine."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from raymodel.testing.distributed import free_port


@contextmanager
def listening(app):
    """Its URL."""
    port = free_port()
    # Its own configuration of logging would close every handler of this process first, and one of
    # absl closes the standard error stream with it.
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server does not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
