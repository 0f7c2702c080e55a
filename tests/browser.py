"""Fixtures: a headless Chromium, and pages in it whose errors fail the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from demo.screenshots import CHROMIUM_FLAGS, find_chromium

NEAR = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "http://localhost:")

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests, with an empty profile of its own."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is here: install the Debian package chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page_errors() -> list[str]:
    """What went wrong in the pages of `open_page` so far: a test that expects errors takes them out of the list."""
    return []


@pytest.fixture
def open_page(chromium: Browser, page_errors: list[str]) -> Iterator[OpenPage]:
    """Opens a file or a local address in a fresh page; options are those of Playwright's `new_context`, such as `viewport`.

    At the end of the test, messages of level error, exceptions, and requests that would leave this machine (which are not let through) fail
    it.
    """
    contexts = []

    def refuse_far(route: Route) -> None:
        if route.request.url.startswith(NEAR):
            route.continue_()
        else:
            page_errors.append(f"asks the network for {route.request.url}")
            route.abort()

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            page_errors.append(message.text)

    def open_(address: str | Path, **options: Any) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.route("**/*", refuse_far)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: page_errors.append(str(error)))
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert page_errors == []
