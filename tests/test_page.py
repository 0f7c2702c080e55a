"""The search page without scripts: what it shows, its filters, pages and addresses, its picture."""

import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import pytest
from flask.testing import FlaskClient

from data.cache import FeatureCache
from search.query.pictures import MAX_BYTES
from search.retrieval.queries import MAX_QUERY
from search.searcher import Searcher
from search.serve import ServeOptions
from search.serve.answering import Answering
from search.serve.app import make_app
from search.serve.pages import Pages
from tests.caches import QUERY, jpeg
from tests.search_pages import ONE, STRANGE


def client_of(searcher: Searcher, options: ServeOptions) -> FlaskClient:
    app = make_app(Answering(searcher), options.videos, options.run, options.host)
    app.testing = True  # an exception in a page fails the test
    return app.test_client()


@pytest.fixture(scope="module")
def searcher(page_options: ServeOptions) -> Searcher:
    return Searcher(page_options)


@pytest.fixture
def client(searcher: Searcher, page_options: ServeOptions) -> FlaskClient:
    return client_of(searcher, page_options)


def ids_of(page: str) -> list[str]:
    """The results of a page, in order."""
    return [unescape(found) for found in re.findall(r'data-video="([^"]*)"', page)]


def links_of(page: str, text: str) -> list[str]:
    """Addresses of the links whose text matches."""
    return [unescape(to) for to, of in re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>([^<]*)<', page) if re.fullmatch(text, unescape(of))]


def test_pages_follow_each_other_and_say_where_they_are(client: FlaskClient) -> None:
    every = ids_of(client.get("/", query_string={"q": QUERY}).text)
    assert len(every) == 6
    page = client.get("/", query_string={"q": QUERY, "top": 4, "not": "a cube", "min_length": "1"}).text
    assert re.search("1.4 of 6 videos", page)
    assert not links_of(page, "Previous")
    second = client.get(links_of(page, "Next")[0]).text
    assert re.search("5.6 of 6 videos", second)
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
    assert "No video matches all filters" in answer.text
    hints = re.sub("<[^>]*>", "", answer.text)
    assert "Search without “camera=phone”, which 2 of 6 videos match" in hints
    assert "Search without “at least 10000 s long”, which 0 of 6 videos match" in hints
    assert len(ids_of(client.get(links_of(answer.text, "Search without “at least.*")[0]).text)) == 2
    assert len(ids_of(client.get(links_of(answer.text, "Search all 6 videos")[0]).text)) == 6
    above = client.get("/", query_string={"q": QUERY, "threshold": "1e6"}).text
    assert "No video for" in above
    assert len(ids_of(client.get(links_of(above, "Search without “score of at least 1e6”")[0]).text)) == 6


def test_a_page_without_a_query_says_what_to_try(client: FlaskClient, cache: FeatureCache, page_options: ServeOptions) -> None:
    page = client.get("/").text
    assert "Search 6 videos" in page
    assert "For example" not in page  # this cache has no captions
    captioned = client_of(Searcher(replace(page_options, cache=cache.path, table=None)), page_options)
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
        ({"q": "a", "where": "colour=red"}, "The table of --table has no column 'colour': it has 'video', 'camera'"),
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
    assert "and 5 similar videos" in page
    assert len(links_of(page, "(two|three|four|five|six|a//b.*)")) == 5
    moments = re.findall(r'class="seek" href="([^"]*)" data-seconds="([^"]*)">[\d:.]+</a>', page.split('class="strip"')[0])
    assert len(moments) == 3
    for to, seconds in moments:
        assert unescape(to) == f"/video/{quote(video_id, safe='/+&!$()*,:;=@~' + chr(39))}#t={seconds}"


def test_any_id_makes_addresses_that_lead_back_to_it(client: FlaskClient, searcher: Searcher, page_videos: Path) -> None:
    page = client.get("/", query_string={"q": QUERY, "path": "50%"}).text
    assert ids_of(page) == [STRANGE]
    file = re.search(r'<video [^>]*src="([^"]*)"', page)
    images = re.findall(r'<img src="([^"]*)"', page)
    assert file
    assert client.get(unescape(file[1]), buffered=True).data == (page_videos / "video1.mp4").read_bytes()
    for i, image in enumerate(images):
        assert client.get(unescape(image)).data == jpeg(2 * i)


def test_thumbnails_are_kept_until_there_are_others(client: FlaskClient, searcher: Searcher, page_options: ServeOptions) -> None:
    """A searcher that takes the place of another, with fewer frames, shows none of the pictures that a browser has kept."""
    page = client.get("/", query_string=ONE).text
    image = unescape(re.findall(r'<img src="([^"]*)"', page)[-1])
    kept = client.get(image).cache_control
    assert (kept.immutable, kept.private, (kept.max_age or 0) > 10**6) == (True, True, True)
    for other in (image.partition("?")[0], image + "x"):
        asked = client.get(other)
        assert (asked.data, asked.cache_control.no_cache, asked.cache_control.max_age) == (client.get(image).data, True, None)
    fewer = client_of(Searcher(replace(page_options, max_frames=2)), page_options)
    images = [unescape(found) for found in re.findall(r'<img src="([^"]*)"', fewer.get("/", query_string=ONE).text)]
    assert len(images) == 2
    assert not {*images} & {unescape(found) for found in re.findall(r'<img src="([^"]*)"', page)}
    # An address of before is answered with what is there now, and not kept.
    assert fewer.get(image.replace(re.findall(r"/(\d+)\?", image)[0] + "?", "1?")).cache_control.no_cache


def test_a_request_sees_one_gallery_though_another_takes_its_place(
    searcher: Searcher, page_options: ServeOptions, cache: FeatureCache
) -> None:
    answering = Answering(searcher)
    app = make_app(answering, page_options.videos, page_options.run, page_options.host)
    pages = Pages(answering, page_options.videos, page_options.run)
    with app.test_request_context("/"):
        assert b"Search 6 videos" in pages.page().data
        answering.replace(Searcher(replace(page_options, cache=cache.path, table=None, name="demo")))
        assert f"Search {len(answering.searcher.gallery.ids)} videos".encode() in pages.page().data


def test_a_picture_is_looked_for_alone_and_beside_words(client: FlaskClient, page_picture: Path) -> None:
    for path in ("/", "/results"):
        answer = client.post(path, data={"image": (io.BytesIO(page_picture.read_bytes()), page_picture.name)})
        assert answer.status_code == 200
        assert len(ids_of(answer.text)) == 6
        assert "the picture a &lt;b&gt; picture.png" in answer.text
        assert "does not hold the picture" in answer.text
        assert 'name="weight"' not in answer.text
    of_words = ids_of(client.get("/", query_string={"q": QUERY}).text)
    for weight, expected in (("0", of_words), ("1", ids_of(answer.text))):
        both = client.post("/", data={"q": QUERY, "weight": weight, "image": (io.BytesIO(page_picture.read_bytes()), "a.png")}).text
        assert ids_of(both) == expected
        assert f'name="weight" min="0" max="1" step="0.1" value="{float(weight)}"' in both
    # No file was chosen.
    assert ids_of(client.post("/", data={"q": QUERY, "weight": "0.5", "image": (io.BytesIO(), "")}).text) == of_words
    assert "The query is empty" in client.post("/", data={"image": (io.BytesIO(), "")}).text


def test_pages_of_a_picture_need_the_picture(client: FlaskClient, page_picture: Path) -> None:
    """A link cannot carry it: the script sends it again, and without scripts there is no link."""
    asked = {"top": "2"}
    whole = client.post("/", data={**asked, "image": (io.BytesIO(page_picture.read_bytes()), "a.png")}).text
    assert not links_of(whole, "Next")
    assert "further results need the picture again" in whole
    assert (
        len(links_of(client.post("/results", data={**asked, "image": (io.BytesIO(page_picture.read_bytes()), "a.png")}).text, "Next")) == 1
    )
    # A form without scripts that was sent by the other button names a file and has none.
    assert "a.png was not sent" in client.get("/", query_string={"q": "a", "image": "a.png"}).text


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"no picture", 400, "is no picture that can be read: use JPEG, PNG or WebP"),
        (b"", 400, "is no picture that can be read"),
        (b"x" * (MAX_BYTES + 1), 400, "the picture has more than 20 MiB: make it smaller"),
        (b"x" * (MAX_BYTES + 2**20), 413, "This search is too large: make it smaller"),
    ],
    ids=["text", "empty", "large", "larger"],
)
def test_what_is_no_picture_is_refused_in_one_line(client: FlaskClient, content: bytes, status: int, line: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{"x" * 500}.png"\r\n\r\n'.encode()
    answer = client.post("/", data=head + content + b"\r\n--b--\r\n", content_type="multipart/form-data; boundary=b")
    assert answer.status_code == status
    assert line in answer.text
    assert "x" * 100 not in answer.text
