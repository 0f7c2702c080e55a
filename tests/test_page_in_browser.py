"""The search page as somebody uses it in a browser: its picture, its keyboard, its strips, its address, and how it looks."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from playwright.sync_api import FloatRect, Locator, Page, Route, expect

from search import serve
from search.serve import ServeOptions
from tests.browser import OpenPage
from tests.caches import QUERY
from tests.choice import long_but
from tests.search_pages import ONE
from tests.waiting import wait_until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine takes its time to decode and to draw."""
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def address(page_options: ServeOptions) -> Iterator[str]:
    with serve.serving(page_options) as url:
        yield url


def asked(page: Page) -> dict[str, str]:
    """The fields in the address of a page."""
    return dict(parse_qsl(urlsplit(page.url).query))


def settled(page: Page) -> Locator:
    """The results, once they are there."""
    expect(page.locator("#answer[aria-busy=false] #status")).to_be_visible()
    return page.locator(".result")


def test_a_picture_that_is_chosen_is_searched_for_and_kept_on_the_way_back(open_page: OpenPage, address: str, page_picture: Path) -> None:
    page = open_page(address)
    page.get_by_label("Or start from a picture").set_input_files(page_picture)
    expect(page.locator(".asked")).to_have_text(re.compile("the picture a <b> picture.png"))
    expect(settled(page)).to_have_count(6)
    expect(page.get_by_role("img", name="the picture a <b> picture.png")).to_be_visible()
    of_picture = page.locator(".result h3").all_text_contents()
    assert asked(page) == {}
    page.get_by_label("What happens in the video?").fill(QUERY)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("slider", name="Picture against words")).to_be_visible()
    assert asked(page) == {"q": QUERY}
    page.get_by_role("slider", name="Picture against words").press("End")
    expect(page.locator(".result h3")).to_have_text(of_picture)
    expect(page.get_by_role("slider", name="Picture against words")).to_be_focused()
    page.go_back()
    page.go_back()
    expect(page.get_by_label("What happens in the video?")).to_have_value("")
    expect(page.locator(".result h3")).to_have_text(of_picture)
    expect(page.locator("#chosen")).to_be_visible()
    # What reloading loses is said.
    page.reload()
    expect(page.locator(".note")).to_contain_text("had the picture a <b> picture.png, which is lost")
    expect(page.locator("#chosen")).to_be_hidden()


DROP = """([content, type]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(content)], "dropped", { type }));
  document.body.dispatchEvent(new DragEvent("dragover", { dataTransfer: data, bubbles: true, cancelable: true }));
  const seen = !document.getElementById("drop").hidden;
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  return seen;
}"""


def test_a_picture_is_dropped_on_the_page_and_paged_through(
    open_page: OpenPage, address: str, page_picture: Path, page_errors: list[str]
) -> None:
    page = open_page(f"{address}?top=4&q=a")
    page.get_by_label("What happens in the video?").fill("")
    assert page.evaluate(DROP, [[*page_picture.read_bytes()], "image/png"])
    expect(page.locator("#status")).to_contain_text(re.compile("1.4 of 6 videos for “the picture dropped”"))
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#status")).to_contain_text(re.compile("5.6 of 6 videos for “the picture dropped”"))
    assert asked(page) == {"top": "4", "skip": "4"}
    page.get_by_role("link", name="more like this").first.click()
    expect(page.locator(".asked")).to_contain_text("like ")
    expect(page.locator("#chosen")).to_be_hidden()
    page.get_by_role("link", name="remove: like").click()
    expect(page.locator(".error")).to_contain_text("The query is empty")
    page_errors.clear()  # its status


def test_what_is_no_picture_gets_an_answer_in_the_page(open_page: OpenPage, address: str, page_errors: list[str]) -> None:
    page = open_page(address)
    page.evaluate(DROP, [[1, 2, 3], "text/plain"])
    assert page.get_by_label("Or start from a picture").evaluate("field => field.validationMessage") == "dropped is not a picture."
    page.evaluate(DROP, [[1, 2, 3], "image/png"])
    expect(page.locator(".error")).to_contain_text("is no picture that can be read")
    assert all("400" in error for error in page_errors)
    page_errors.clear()


def test_results_are_reached_and_played_by_the_keyboard(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    field = page.get_by_label("What happens in the video?")
    field.fill(QUERY)
    field.press("Enter")
    results = settled(page)
    expect(results).to_have_count(6)
    field.press("ArrowDown")
    expect(results.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    expect(results.nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(results.nth(1)).to_be_focused()
    strip = results.nth(1).get_by_role("slider")
    before = int(strip.get_attribute("aria-valuenow") or 0)
    page.keyboard.press("ArrowLeft" if before > 1 else "ArrowRight")
    after = before - 1 if before > 1 else before + 1
    expect(strip).to_have_attribute("aria-valuenow", str(after))
    seconds = float(results.nth(1).locator(".frames li").nth(after - 1).get_attribute("data-seconds") or "nan")
    page.keyboard.press("Enter")
    player = results.nth(1).locator("video")
    expect(player).not_to_have_js_property("readyState", 0)
    expect(player).to_have_js_property("seeking", False)
    assert player.evaluate("player => player.currentTime") >= seconds
    page.keyboard.press("Escape")
    expect(player).to_have_js_property("paused", True)
    expect(field).to_be_focused()
    field.press("End")
    field.press("/")
    expect(field).to_have_value(QUERY + "/")  # typed
    results.nth(0).focus()
    page.keyboard.press("/")
    expect(field).to_be_focused()
    results.nth(0).focus()
    page.keyboard.press("?")
    expect(page.get_by_text("earlier or later moment")).to_be_visible()
    # Keys that a voice or a slip may press can be turned off.
    page.get_by_label("Single-key shortcuts").uncheck()
    results.nth(0).focus()
    page.keyboard.press("j")
    expect(results.nth(0)).to_be_focused()


def scrub(page: Page) -> tuple[Locator, Locator, list[FloatRect]]:
    """The first result with a player, its strip, and where the frames are."""
    result = settled(page).filter(has=page.locator("video")).first
    strip = result.get_by_role("slider")
    strip.scroll_into_view_if_needed()
    boxes = [frame.bounding_box() for frame in strip.locator("li").all()]
    return result, strip, [box for box in boxes if box is not None]


def test_the_strip_shows_what_the_pointer_is_over_and_plays_what_is_clicked(open_page: OpenPage, address: str) -> None:
    page = open_page(address + "?" + urlencode(ONE))
    result, strip, boxes = scrub(page)
    large = result.locator(".large")
    expect(large).to_be_hidden()
    for frame in (0, len(boxes) - 1):
        page.mouse.move(boxes[frame]["x"] + 5, boxes[frame]["y"] + 5)
        expect(large).to_be_visible()
        assert large.get_attribute("src") == strip.locator("img").nth(frame).get_attribute("src")
    page.mouse.move(0, 0)
    expect(large).to_be_hidden()
    page.mouse.click(boxes[1]["x"] + 5, boxes[1]["y"] + 5)
    expect(strip).to_have_attribute("aria-valuenow", re.compile("[2-9]"))
    expect(result.locator("video")).to_have_js_property("seeking", False)
    expect(large).to_be_hidden()
    assert result.locator("video").evaluate("player => player.currentTime") >= float(
        strip.locator("li").nth(1).get_attribute("data-seconds") or "nan"
    )


def test_the_strip_follows_a_finger(open_page: OpenPage, address: str) -> None:
    page = open_page(address + "?" + urlencode(ONE), has_touch=True, viewport={"width": 360, "height": 800})
    result, strip, boxes = scrub(page)
    touch = page.context.new_cdp_session(page)

    def finger(kind: str, frame: int | None = None) -> None:
        points = [] if frame is None else [{"x": boxes[frame]["x"] + 9, "y": boxes[frame]["y"] + 9}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    finger("touchStart", 0)
    finger("touchMove", 1)
    finger("touchMove", 3)
    expect(strip).to_have_attribute("aria-valuenow", "4")
    expect(result.locator(".large")).to_have_attribute("src", strip.locator("img").nth(3).get_attribute("src") or "")
    finger("touchEnd")
    expect(result.locator(".when")).to_be_visible()
    expect(result.locator("video")).to_have_js_property("paused", True)
    assert page.evaluate("scrollX") == 0


def test_the_strip_is_a_slider_for_a_screen_reader(open_page: OpenPage, address: str) -> None:
    page = open_page(address + "?" + urlencode({**ONE, "like": "two@1", "where": "camera~o"}))
    settled(page)
    result = page.get_by_role("article").first
    video_id = result.get_attribute("data-video")
    seen = result.aria_snapshot()
    assert re.search(rf'- heading "1 {video_id}" \[level=3\]', seen)
    assert re.search(rf'- slider "moments of {video_id}"$', seen, re.MULTILINE)  # and nothing within
    assert f'- button "play {video_id}"' in seen
    assert '- link "more like this"' in seen
    strip = result.get_by_role("slider")
    assert strip.locator("a, [tabindex]").count() == 0  # nothing inside of it takes the focus
    strip.focus()
    strip.press("Home")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("^0:00(, best moment)?$"))
    strip.press("End")
    expect(strip).to_have_attribute("aria-valuenow", strip.get_attribute("aria-valuemax") or "")
    whole = page.locator("body").aria_snapshot()
    for line in (
        'searchbox "What happens in the video?"',
        'list "this search"',
        'link "remove: like two@1"',
        'link "remove: camera~o"',
        'slider "Picture against words": "0.5"',
        'link "Next"',
        'navigation "pages of results"',
    ):
        assert line in whole
    # Every control has a name.
    assert not re.search(r"- (button|link|textbox|searchbox|slider|spinbutton|checkbox)(:|\n| \[)", whole)


VISIBLE = """() => {
  const box = document.activeElement.getBoundingClientRect();
  const style = getComputedStyle(document.activeElement);
  return [document.activeElement.tagName + "#" + (document.activeElement.id || document.activeElement.name || ""),
    box.width > 0 && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""


def test_the_focus_goes_from_the_form_through_the_results_and_is_seen(open_page: OpenPage, address: str) -> None:
    page = open_page(address + "?" + urlencode(ONE))
    settled(page)
    page.get_by_text("Filters and options").click()
    page.get_by_role("link", name="Video search").focus()
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, seen = page.evaluate(VISIBLE)
        if name.startswith("BODY"):
            break
        assert seen, name
        order.append(name)
    fields = [name for name in order if name.startswith("INPUT#")]
    wanted = ["query", "image", "not", "path", "min_length", "max_length", "since", "until", "where", "threshold", "top", "moments", "fold"]
    assert list(dict.fromkeys(fields)) == [f"INPUT#{name}" for name in wanted]
    assert order[len(order) - order[::-1].index("INPUT#fold") :][0] == "A#"  # into the result
    assert "DIV#" in order  # the strip


LUMINANCE = """element => {
  const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
  const colour = parsed(getComputedStyle(element).color);
  let ground = null;
  for (let at = element; at && !ground; at = at.parentElement) {
    const found = parsed(getComputedStyle(at).backgroundColor);
    if (found.length === 3 || found[3] === 1) ground = found;
  }
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  return [luminance(colour), luminance(ground)];
}"""


@pytest.mark.parametrize("scheme", long_but(["dark"], ["light", "dark"]))
def test_text_can_be_read_in_both_schemes(open_page: OpenPage, address: str, page_errors: list[str], scheme: str) -> None:
    """WCAG AA: a contrast of 4.5 for all text. https://www.w3.org/TR/WCAG22/#contrast-minimum"""
    page = open_page(address + "?" + urlencode({**ONE, "like": "two@1", "min_length": "1"}), color_scheme=scheme)
    settled(page)
    page.locator("#keys summary").click()
    page.get_by_text("Filters and options").click()
    texts = page.locator(":is(p, a, span, li, h3, label, button, summary, dt, dd, kbd, input):visible")
    pairs = texts.evaluate_all(f"all => all.filter((one) => one.textContent.trim() || one.value).map({LUMINANCE})")
    assert len(pairs) > 50
    for one, other in pairs:
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5


@pytest.mark.parametrize("width", long_but([360], [360, 1400]))
def test_the_page_fits_and_nothing_moves_as_pictures_come(open_page: OpenPage, address: str, width: int) -> None:
    page = open_page(address, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    assert page.locator("#answer").evaluate("answer => getComputedStyle(answer).transitionDuration") in ("0s", "")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/thumbnail/**", hold)
    asked = urlencode({"q": QUERY, "path": ["two", "50%", "three"], "not": "a cube"}, doseq=True)
    page.goto(f"{address}?{asked}", wait_until="domcontentloaded")
    settled(page)
    page.get_by_text("Filters and options").click()
    places = "all => all.map((one) => JSON.stringify(one.getBoundingClientRect()))"
    before = page.locator(".result, .strip, .frames li").evaluate_all(places)
    assert len(before) > 10
    for route in waiting:
        route.continue_()
    page.unroute("**/thumbnail/**")
    expect(page.locator(".strip img").first).not_to_have_js_property("naturalWidth", 0)
    assert page.locator(".result, .strip, .frames li").evaluate_all(places) == before
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pictures_far_below_are_not_loaded(open_page: OpenPage, address: str) -> None:
    page = open_page(address, viewport={"width": 360, "height": 300})
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    page.get_by_label("What happens in the video?").fill(QUERY)
    page.get_by_role("button", name="Search").click()
    expect(settled(page)).to_have_count(6)
    page.wait_for_load_state("networkidle")
    images = page.locator(".strip img").evaluate_all("all => all.map((image) => [image.loading, image.complete])")
    assert {loading for loading, _ in images} == {"lazy"}
    assert not images[-1][1]


def test_a_server_that_is_gone_or_refuses_is_said(open_page: OpenPage, address: str, page_errors: list[str]) -> None:
    page = open_page(address)
    page.route("**/results**", lambda route: route.fulfill(status=429, content_type="text/plain", body="429: <b>later</b>"))
    page.get_by_label("What happens in the video?").fill("a")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".error")).to_have_text("429: <b>later</b>")
    page.unroute("**/results**")
    page.route("**/results**", lambda route: route.abort())
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".error")).to_contain_text("does not respond")
    page_errors.clear()


def test_the_address_holds_the_search(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    page.get_by_label("What happens in the video?").fill(QUERY)
    page.get_by_text("Filters and options").click()
    page.get_by_label("Shortest (seconds)").fill("1")
    page.get_by_label("Table condition").fill("camera=phone")
    page.get_by_label("Fold near-duplicates").check()
    page.get_by_label("Results a page").fill("1")
    page.get_by_role("button", name="Search").click()
    expect(settled(page)).to_have_count(1)
    expected = {"q": QUERY, "min_length": "1", "where": "camera=phone", "top": "1", "fold": "0.98"}
    assert asked(page) == expected
    expect(page.get_by_label("Table condition")).to_have_value("")  # it is shown above the results now
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#status")).to_contain_text(re.compile("1.1 of 2"))
    assert asked(page) == expected
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#status")).to_contain_text(re.compile("2.2 of 2"))
    expect(settled(page)).to_be_focused()
    first = page.context.new_page()
    first.goto(page.url)
    assert first.locator("#status").text_content() != ""
    assert first.locator(".result h3").all_text_contents() == page.locator(".result h3").all_text_contents()
    expect(first.get_by_label("Fold near-duplicates")).to_be_checked()
    page.get_by_role("link", name="remove: camera=phone").click()
    expect(page.locator("#status")).to_contain_text(re.compile("1.1 of 6"))
    page.go_back()
    expect(page.locator("#status")).to_contain_text(re.compile("2.2 of 2"))
    page.get_by_role("link", name="Video search").click()
    expect(page.locator("#status")).to_have_text("Search 6 videos")
    expect(page.get_by_label("Shortest (seconds)")).to_have_value("")


def test_the_page_stays_where_it_was_when_it_is_loaded_again(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}?{urlencode({'q': QUERY})}", viewport={"width": 360, "height": 640})
    expect(settled(page)).to_have_count(6)
    page.evaluate("scrollTo(0, 700)")
    wait_until(lambda: page.evaluate("history.state?.top") == 700, "the place is noted")
    page.reload()
    expect(settled(page)).to_have_count(6)
    wait_until(lambda: page.evaluate("scrollY") == 700, "the place on the page")
    page.goto(f"{address}search.css")
    page.go_back()
    wait_until(lambda: page.evaluate("scrollY") == 700, "the place on the page")


def test_a_wrong_value_that_is_folded_away_is_shown(open_page: OpenPage, address: str, page_errors: list[str]) -> None:
    page = open_page(address)
    page.get_by_text("Filters and options").click()
    page.get_by_label("Shortest (seconds)").fill("-1")
    page.get_by_text("Filters and options").click()
    page.get_by_label("What happens in the video?").fill(QUERY)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_label("Shortest (seconds)")).to_be_focused()
    # One that came with the address is in view, also without scripts.
    page = open_page(f"{address}?q=a&top=0", java_script_enabled=False)
    expect(page.get_by_label("Results a page")).to_be_visible()
    page_errors.clear()  # its status
