"""The search page as somebody uses it: what it shows, its picture, its filters and pages, its keyboard, its strips."""

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest
from flask.testing import FlaskClient
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, Route, expect

from data.cache import FeatureCache
from search import serve
from search.query.pictures import MAX_BYTES
from search.retrieval.queries import MAX_QUERY
from search.searcher import Searcher
from search.serve import ServeOptions
from search.serve.answering import Answering
from search.serve.app import make_app
from search.serve.pages import Pages
from tests.browser import OpenPage
from tests.caches import QUERY, jpeg, rewritten
from tests.choice import long_but

STRANGE = 'a//b #1/50% "it\'s"?&é+<i>.mp4'
"""An id of everything that means something in an address or in markup."""
ONE = {"q": "a red ring", "top": "1"}


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine takes its time to decode and to draw."""
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def videos(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for i in range(1, 7):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def options(cache_path: Path, demo_set: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeOptions:
    """A page of six videos with thumbnails, two of them with the same frames, and of a table."""
    cache = FeatureCache(cache_path)
    folder = tmp_path_factory.mktemp("page")
    ids = {"video1": STRANGE, "video2": "two", "video3": "three", "video4": "four", "video5": "five", "video6": "six"}
    made = rewritten(cache, folder / "cache", ids, thumbnails=True, files=demo_set / "videos")
    table = cache.listings.videos("demo").head(6).assign(video_id=list(ids.values()), split="test")
    table["file"] = [f"video{i}.mp4" for i in range(1, 7)]
    made.write_table("demo", cache.table().head(0), table)
    cameras = folder / "cameras.csv"
    cameras.write_text("video,camera\ntwo,phone\nthree,phone\nfour,drone\n")
    return ServeOptions(cache=made.path, run="zero-shot:glccl", videos=videos, table=cameras, port=0, device="cpu", quiet=True)


def client_of(searcher: Searcher, options: ServeOptions) -> FlaskClient:
    app = make_app(Answering(searcher), options.videos, options.run, options.host)
    app.testing = True  # an exception in a page fails the test
    return app.test_client()


@pytest.fixture(scope="module")
def searcher(options: ServeOptions) -> Searcher:
    return Searcher(options)


@pytest.fixture
def client(searcher: Searcher, options: ServeOptions) -> FlaskClient:
    return client_of(searcher, options)


@pytest.fixture(scope="module")
def address(options: ServeOptions) -> Iterator[str]:
    with serve.serving(options) as url:
        yield url


@pytest.fixture(scope="module")
def picture(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a <b> picture.png"
    Image.effect_noise((64, 48), 50).convert("RGB").save(path)
    return path


def ids_of(page: str) -> list[str]:
    """The results of a page, in order."""
    return [unescape(found) for found in re.findall(r'data-video="([^"]*)"', page)]


def links_of(page: str, text: str) -> list[str]:
    """Addresses of the links whose text matches."""
    return [unescape(to) for to, of in re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>([^<]*)<', page) if re.fullmatch(text, unescape(of))]


# Without scripts.


def test_pages_follow_each_other_and_say_where_they_are(client: FlaskClient) -> None:
    every = ids_of(client.get("/", query_string={"q": QUERY}).text)
    assert len(every) == 6
    page = client.get("/", query_string={"q": QUERY, "top": 4, "not": "a cube", "min_length": "1"}).text
    assert "4 of 6 videos" in page
    assert not links_of(page, "Previous")
    second = client.get(links_of(page, "Next")[0]).text
    assert "6 of 6 videos" in second
    assert not links_of(second, "Next")
    assert len({*ids_of(page), *ids_of(second)}) == 6
    assert "but not a cube" in second  # everything else stays as it was
    assert "at least 1 s long" in second
    assert ids_of(client.get(links_of(second, "Previous")[0]).text) == ids_of(page)
    beyond = client.get("/", query_string={"q": QUERY, "skip": 100}).text
    assert "No further results" in beyond
    assert ids_of(client.get(links_of(beyond, "To the first results")[0]).text) == every


def test_filters_are_shown_and_each_can_be_taken_away(client: FlaskClient) -> None:
    page = client.get("/", query_string={"q": QUERY, "where": "camera=phone", "path": ["two", "four"], "top": "3"}).text
    assert ids_of(page) == ["two"]
    assert re.findall(r"<li>([^<\n]+)\s*<input", page) == ["in two", "in four", "camera=phone"]
    # The form sends again what is not in one of its own fields.
    assert re.findall(r'type="hidden" form="search" name="(\w+)" value="([^"]*)"', page) == [
        ("path", "two"), ("path", "four"), ("where", "camera=phone"),
    ]  # fmt: skip
    without = [parse_qs(urlsplit(to).query) for to in links_of(page, "✕")]
    rest = {"q": [QUERY], "top": ["3"]}
    assert without == [
        {**rest, "path": ["four"], "where": ["camera=phone"]},
        {**rest, "path": ["two"], "where": ["camera=phone"]},
        {**rest, "path": ["two", "four"]},
    ]


def test_a_search_that_filters_leave_empty_says_which_and_links_out_of_it(client: FlaskClient) -> None:
    answer = client.get("/", query_string={"q": QUERY, "where": "camera=phone", "min_length": "10000"})
    assert answer.status_code == 200
    assert ids_of(answer.text) == []
    assert "No video passes all filters" in answer.text
    hints = re.sub("<[^>]*>", "", answer.text)
    assert "Search without “camera=phone”: 2 of 6 videos pass it" in hints
    assert "Search without “at least 10000 s long”: 0 of 6 videos pass it" in hints
    assert len(ids_of(client.get(links_of(answer.text, "Search without “at least.*")[0]).text)) == 2
    assert len(ids_of(client.get(links_of(answer.text, "Search all 6 videos")[0]).text)) == 6
    above = client.get("/", query_string={"q": QUERY, "threshold": "1e6"}).text
    assert "No video for" in above
    assert len(ids_of(client.get(links_of(above, "Search without “score of at least 1e6”")[0]).text)) == 6


def test_a_page_without_a_query_says_what_to_try(client: FlaskClient, cache: FeatureCache, options: ServeOptions) -> None:
    page = client.get("/").text
    assert "Search 6 videos" in page
    assert "For example" not in page  # this cache has no captions
    captioned = client_of(Searcher(replace(options, cache=cache.path, table=None)), options)
    examples = re.findall(r'For example, <a href="([^"]*)">([^<]*)</a>', captioned.get("/").text)
    assert len({text for _, text in examples}) == 3
    for to, text in examples:
        assert dict(parse_qsl(urlsplit(unescape(to)).query)) == {"q": unescape(text)}
    assert len(ids_of(captioned.get(unescape(examples[0][0])).text)) == 10


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"q": "a", "since": "soon"}, "“Changed since” 'soon' must be a date such as 2024-05-31"),
        ({"q": "a", "top": "0"}, "“Results a page” '0' must be a whole number from 1 to 1,000"),
        ({"q": "a", "where": "camera"}, "“Table condition” 'camera' must be COLUMN=VALUE"),
        ({"q": "a", "where": "colour=red"}, "the table of --table has no column 'colour': it has 'video', 'camera'"),
        ({"like": "tow"}, "has no video 'tow': did you mean 'two'?"),
        ({"not": "a cube"}, "“But not” needs something to look for beside it"),
    ],
)
def test_errors_name_the_fields_as_the_page_does(client: FlaskClient, asked: dict[str, str], line: str) -> None:
    answer = client.get("/", query_string=asked)
    assert answer.status_code == 400
    assert line in unescape(answer.text)
    # What was typed is still there, or can be taken away.
    assert all(f'value="{value}"' in answer.text for value in asked.values())


@pytest.mark.parametrize("field", ["path", "like", "where", "not"])
def test_a_field_that_is_too_long_is_not_sent_back(client: FlaskClient, field: str) -> None:
    answer = client.get("/", query_string={"q": "a", field: "x" * (MAX_QUERY + 1)})
    assert answer.status_code == 413
    assert "has 10,001 characters" in answer.text
    assert len(answer.data) < len(client.get("/").data) + 1000


def test_more_like_this_looks_for_the_best_moment_among_the_same_videos(client: FlaskClient) -> None:
    page = client.get("/", query_string={"q": QUERY, "not": "a cube", "min_length": "1", "top": 5, "skip": 1}).text
    for video_id, to in zip(ids_of(page), links_of(page, "more like this"), strict=True):
        fields = dict(parse_qsl(urlsplit(to).query))
        assert fields.keys() == {"like", "min_length", "top"}
        assert fields["like"].startswith(video_id + "@")
        like = client.get(to).text
        assert video_id not in ids_of(like)
        assert len(ids_of(like)) == 5
    both = client.get("/", query_string={"q": "a ring", "like": "two@1", "weight": "0.25"}).text
    assert 'name="weight" min="0" max="1" step="0.1" value="0.25"' in both
    # The form sends a weight that weighs nothing any more.
    assert client.get("/", query_string={"q": "a ring", "weight": "0.25"}).status_code == 200


def test_further_moments_and_near_duplicates_are_linked(client: FlaskClient) -> None:
    page = client.get("/", query_string={"q": QUERY, "moments": 3, "apart": 1, "fold": -1}).text
    (video_id,) = ids_of(page)
    assert "and 5 like it" in page
    assert len(links_of(page, "(two|three|four|five|six|a//b.*)")) == 5
    moments = re.findall(r'class="seek" href="([^"]*)" data-seconds="([^"]*)">[\d:.]+</a>', page.split('class="strip"')[0])
    assert len(moments) == 3
    for to, seconds in moments:
        assert unescape(to) == f"/video/{quote(video_id, safe='/+&!$()*,:;=@~' + chr(39))}#t={seconds}"


def test_any_id_makes_addresses_that_lead_back_to_it(client: FlaskClient, searcher: Searcher, videos: Path) -> None:
    page = client.get("/", query_string={"q": QUERY, "path": "50%"}).text
    assert ids_of(page) == [STRANGE]
    file = re.search(r'<video [^>]*src="([^"]*)"', page)
    images = re.findall(r'<img src="([^"]*)"', page)
    assert file
    assert client.get(unescape(file[1]), buffered=True).data == (videos / "video1.mp4").read_bytes()
    for i, image in enumerate(images):
        assert client.get(unescape(image)).data == jpeg(2 * i)


def test_thumbnails_are_kept_until_there_are_others(client: FlaskClient, searcher: Searcher, options: ServeOptions) -> None:
    """A searcher that takes the place of another, with fewer frames, shows none of the pictures that a browser has kept."""
    page = client.get("/", query_string=ONE).text
    image = unescape(re.findall(r'<img src="([^"]*)"', page)[-1])
    kept = client.get(image).cache_control
    assert (kept.immutable, kept.private, (kept.max_age or 0) > 10**6) == (True, True, True)
    for other in (image.partition("?")[0], image + "x"):
        asked = client.get(other)
        assert (asked.data, asked.cache_control.no_cache, asked.cache_control.max_age) == (client.get(image).data, True, None)
    fewer = client_of(Searcher(replace(options, max_frames=2)), options)
    images = [unescape(found) for found in re.findall(r'<img src="([^"]*)"', fewer.get("/", query_string=ONE).text)]
    assert len(images) == 2
    assert not {*images} & {unescape(found) for found in re.findall(r'<img src="([^"]*)"', page)}
    # An address of before is answered with what is there now, and not kept.
    assert fewer.get(image.replace(re.findall(r"/(\d+)\?", image)[0] + "?", "1?")).cache_control.no_cache


def test_a_request_sees_one_gallery_though_another_takes_its_place(searcher: Searcher, options: ServeOptions, cache: FeatureCache) -> None:
    answering = Answering(searcher)
    app = make_app(answering, options.videos, options.run, options.host)
    pages = Pages(answering, options.videos, options.run)
    with app.test_request_context("/"):
        assert b"Search 6 videos" in pages.page().data
        answering.replace(Searcher(replace(options, cache=cache.path, table=None, name="demo")))
        assert f"Search {len(answering.searcher.gallery.ids)} videos".encode() in pages.page().data


# A picture.


def test_a_picture_is_looked_for_alone_and_beside_words(client: FlaskClient, picture: Path) -> None:
    for path in ("/", "/results"):
        answer = client.post(path, data={"image": (io.BytesIO(picture.read_bytes()), picture.name)})
        assert answer.status_code == 200
        assert len(ids_of(answer.text)) == 6
        assert "the picture a &lt;b&gt; picture.png" in answer.text
        assert "cannot hold a picture" in answer.text
        assert 'name="weight"' not in answer.text
    of_words = ids_of(client.get("/", query_string={"q": QUERY}).text)
    for weight, expected in (("0", of_words), ("1", ids_of(answer.text))):
        both = client.post("/", data={"q": QUERY, "weight": weight, "image": (io.BytesIO(picture.read_bytes()), "a.png")}).text
        assert ids_of(both) == expected
        assert f'name="weight" min="0" max="1" step="0.1" value="{float(weight)}"' in both
    # No file was chosen.
    assert ids_of(client.post("/", data={"q": QUERY, "weight": "0.5", "image": (io.BytesIO(), "")}).text) == of_words
    assert "the query is empty" in client.post("/", data={"image": (io.BytesIO(), "")}).text


def test_pages_of_a_picture_need_the_picture(client: FlaskClient, picture: Path) -> None:
    """A link cannot carry it: the script sends it again, and without scripts there is no link."""
    asked = {"top": "2"}
    whole = client.post("/", data={**asked, "image": (io.BytesIO(picture.read_bytes()), "a.png")}).text
    assert not links_of(whole, "Next")
    assert "further results need the picture again" in whole
    assert len(links_of(client.post("/results", data={**asked, "image": (io.BytesIO(picture.read_bytes()), "a.png")}).text, "Next")) == 1
    # A form without scripts that was sent by the other button names a file and has none.
    assert "a.png was not sent" in client.get("/", query_string={"q": "a", "image": "a.png"}).text


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"no picture", 400, "is no picture that can be read: use JPEG, PNG or WebP"),
        (b"", 400, "is no picture that can be read"),
        (b"x" * (MAX_BYTES + 1), 400, "the picture has more than 20 MiB: make it smaller"),
        (b"x" * (MAX_BYTES + 2**20), 413, "this search is too large: make it smaller"),
    ],
    ids=["text", "empty", "large", "larger"],
)
def test_what_is_no_picture_is_refused_in_one_line(client: FlaskClient, content: bytes, status: int, line: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{"x" * 500}.png"\r\n\r\n'.encode()
    answer = client.post("/", data=head + content + b"\r\n--b--\r\n", content_type="multipart/form-data; boundary=b")
    assert answer.status_code == status
    assert line in answer.text
    assert "x" * 100 not in answer.text


# In a browser.


def asked(page: Page) -> dict[str, str]:
    """The fields in the address of a page."""
    return dict(parse_qsl(urlsplit(page.url).query))


def settled(page: Page) -> Locator:
    """The results, once they are there."""
    expect(page.locator("#answer[aria-busy=false] #status")).to_be_visible()
    return page.locator(".result")


def test_a_picture_that_is_chosen_is_searched_for_and_kept_on_the_way_back(open_page: OpenPage, address: str, picture: Path) -> None:
    page = open_page(address)
    page.get_by_label("Or look for a picture").set_input_files(picture)
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


@pytest.mark.long
def test_a_picture_is_dropped_on_the_page_and_paged_through(
    open_page: OpenPage, address: str, picture: Path, page_errors: list[str]
) -> None:
    page = open_page(f"{address}?top=4&q=a")
    page.get_by_label("What happens in the video?").fill("")
    assert page.evaluate(DROP, [[*picture.read_bytes()], "image/png"])
    expect(page.locator("#status")).to_contain_text(re.compile("1.4 of 6 videos for “the picture dropped”"))
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#status")).to_contain_text(re.compile("5.6 of 6 videos for “the picture dropped”"))
    assert asked(page) == {"top": "4", "skip": "4"}
    page.get_by_role("link", name="more like this").first.click()
    expect(page.locator(".asked")).to_contain_text("like ")
    expect(page.locator("#chosen")).to_be_hidden()
    page.get_by_role("link", name="remove: like").click()
    expect(page.locator(".error")).to_contain_text("the query is empty")
    page_errors.clear()  # its status


@pytest.mark.long
def test_what_is_no_picture_gets_an_answer_in_the_page(open_page: OpenPage, address: str, page_errors: list[str]) -> None:
    page = open_page(address)
    page.evaluate(DROP, [[1, 2, 3], "text/plain"])
    assert page.get_by_label("Or look for a picture").evaluate("field => field.validationMessage") == "dropped is no picture."
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
    page.get_by_label("Keys without Ctrl").uncheck()
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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
