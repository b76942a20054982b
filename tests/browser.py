"""A real browser for the tests of pages: the machine's own Chromium, without a window, driven by Playwright."""

import contextlib
import shutil
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WEBGL = {True: ("--use-angle=swiftshader", "--enable-unsafe-swiftshader"), False: ("--disable-3d-apis",)}


@contextlib.contextmanager
def chromium(*, webgl=False):
    """The browser, with WebGL (by the processor) or without; the test is skipped where the machine has none.

    Playwright gives it a profile of its own, which is gone afterwards.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(NAMES)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*FLAGS, *WEBGL[webgl]])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, path, *, width=1280, scheme="light", script=""):
    """A page in a window of its own, and what it complains of: console messages, errors, requests for other files.

    `script` runs before the page's own.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    if script:
        page.add_init_script(script)
    address = path.absolute().as_uri()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    try:
        yield page, complaints
    finally:
        complaints += [
            f"request: {url}" for url in asked if url.partition("#")[0] != address and not url.startswith("data:")
        ]
        context.close()


def until(page, holds, seconds=5.0):
    """Wait until something holds; the page's own policy forbids it to evaluate Playwright's waiting functions."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the page did not come to it in time"
        page.wait_for_timeout(15)


def tab_through_viewer(page):
    """Tabbing comes to each button, list, box and slider of the viewer, the planes as one, and its three panels."""
    wanted = page.locator("#viewer button, #viewer select, #viewer input:not([type=radio])").count() + 3 + 1
    reached = set()
    page.locator("#viewer-before").focus()
    for _ in range(wanted + 5):
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        page.keyboard.press("Tab")
        if not page.evaluate("document.querySelector('#viewer').contains(document.activeElement)"):
            break
    assert len(reached) == wanted
