"""A dashboard for tests: its real server on loopback, and pages that say what they complain of."""

import contextlib
import threading
import time

import httpx

from fedmerge.cli import dashboard
from fedmerge.dashboard import serving


@contextlib.contextmanager
def serve(path, run=""):
    """The application of a path while it is served; its `address` has the secret."""
    line = serving.listen(0)
    application = serving.Application(dashboard.boards(path, run), line.getsockname()[1], serving.Secrets())
    server = serving.server(application)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [line]})
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        yield application
    finally:
        server.should_exit = True
        thread.join()
        line.close()


def state(application, run="", since=0):
    """What the page would be told."""
    place = application.address.partition("?")[0]
    cookies = {serving.COOKIE: application.known.token}
    answer = httpx.get(f"{place}state", params={"run": run, "since": since}, cookies=cookies, trust_env=False)
    assert answer.status_code == 200
    return answer.json()


@contextlib.contextmanager
def page(browser, address, *, width=1280, scheme="light", motion="no-preference"):
    """A page in a window of its own, and what it complains of; calls to anybody else are complaints."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion)
    found, complaints = context.new_page(), []
    host = address.split("/")[2]
    found.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    found.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    found.on(
        "request",
        lambda request: complaints.append(request.url) if request.url.split("/")[2:3] != [host] else None,
    )
    found.goto(address)
    try:
        yield found, complaints
    finally:
        context.close()
