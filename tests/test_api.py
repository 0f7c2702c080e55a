"""The JSON interface: what it returns, what it refuses, and its OpenAPI description against both."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from PIL import Image
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from werkzeug.test import TestResponse, run_wsgi_app

import search
from data.cache import FeatureCache
from search import SearchOptions, serve
from search.query.parse import FIELDS, NUMBERS, REPEATED
from search.query.query import Shown
from search.searcher import Searcher
from search.serve import ServeOptions
from search.serve.access import Access
from search.serve.answering import Answering
from search.serve.api.description import description
from search.serve.api.handlers import VIDEOS_LISTED
from search.serve.app import make_app
from tests.caches import QUERY, jpeg, rewritten
from tests.conftest import ROOT

IDS = {
    "video1": "one",
    "video2": "folder/two words.mp4",
    "video3": "100% <b>&?#;=+.mp4",
    "video4": "double//slash/",
    "video5": "\u2028ü😀\n",
    "video6": "health/file",
    "video7": "a.b/0",
}
"""Ids of which many have to be escaped, or look like other addresses."""


@pytest.fixture(scope="module")
def videos(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(demo_set / "videos" / "video1.mp4", folder)
    shutil.copy(demo_set / "videos" / "video2.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def options(cache_path: Path, demo_set: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeOptions:
    """A server of seven videos, of which the files of two are there."""
    cache, folder = FeatureCache(cache_path), tmp_path_factory.mktemp("served")
    made = rewritten(cache, folder / "cache", IDS, thumbnails=True, files=demo_set / "videos")
    listed = cache.listings.videos("demo").head(len(IDS)).assign(video_id=list(IDS.values()), split="test")
    listed["file"] = [f"{name}.mp4" for name in IDS]
    made.write_table("demo", cache.table().head(0), listed)
    table = folder / "table.csv"
    table.write_text("video,year\nvideo1.mp4,2020\nvideo2.mp4,2024\n")
    return ServeOptions(cache=made.path, run="zero-shot:mean", videos=videos, table=table, port=0, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def answering(options: ServeOptions) -> Iterator[Answering]:
    with Answering(Searcher(options)) as found:
        yield found


@pytest.fixture(scope="module")
def client(answering: Answering, options: ServeOptions) -> FlaskClient:
    app = make_app(answering, options.videos, options.run, options.host)
    app.testing = True  # an exception in a handler fails the test
    return app.test_client()


def picture(size: int = 8, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 30)).save(content, kind)
    return content.getvalue()


def alike(one: Any, other: Any) -> bool:
    """Whether two records are the same but for the rounding of a server that encodes several texts at once."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == (pytest.approx(other, abs=5e-3) if isinstance(other, float) else other))


def uploaded(client: FlaskClient, content: bytes) -> TestResponse:
    """The answer to a picture. The client would leave the file open to which it writes a form of megabytes."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return client.post("/api/search", data=head + content + b"\r\n--x--\r\n", content_type="multipart/form-data; boundary=x")


def test_an_address_and_an_object_give_what_the_command_prints(
    client: FlaskClient, options: ServeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = SearchOptions(options.cache, options.run, query=(QUERY,), device="cpu", quiet=True, json=True, table=options.table)
    search.main(replace(asked, not_="a star", top=4, skip=1, moments=2, apart=0.5, path=("*",), where=("year>=2000",)))
    printed = json.loads(capsys.readouterr().out)
    fields: dict[str, Any] = {"q": QUERY, "not": "a star", "top": 4, "skip": 1, "moments": 2, "apart": 0.5}
    fields |= {"path": ["*"], "where": ["year>=2000"]}
    for response in (
        client.get("/api/search", query_string=fields),
        client.post("/api/search", json={**fields, "top": 4.0}),
    ):
        assert response.status_code == 200
        assert alike(response.json, printed)
    assert (printed["found"], printed["gallery"], printed["by"]) == (2, len(IDS), "cosine")
    (result,) = printed["results"]
    assert result["rank"] == 2
    assert result["moment"] == {**result["moments"][0], "by": "cosine"}
    assert 1 <= len(result["moments"]) <= 2


def test_a_picture_finds_what_the_command_finds(
    client: FlaskClient, options: ServeOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(picture())
    asked = SearchOptions(options.cache, options.run, image=file, query=(QUERY,), weight=0.75, device="cpu", quiet=True, json=True)
    search.main(asked)
    printed = json.loads(capsys.readouterr().out)
    form = {"q": QUERY, "weight": "0.75", "image": (io.BytesIO(file.read_bytes()), file.name)}
    response = client.post("/api/search", data=form)
    assert response.status_code == 200
    assert alike(response.json, printed)
    assert printed["by"] == "mixed"


@pytest.mark.parametrize("video_id", IDS.values())
def test_an_id_of_any_characters_leads_to_what_is_known_of_its_video(
    client: FlaskClient, answering: Answering, video_id: str, videos: Path
) -> None:
    searcher = answering.searcher
    number = searcher.gallery.ids.index(video_id)
    found = client.get(f"/api/videos/{quote(video_id)}").json
    assert found is not None
    assert found["video_id"] == video_id
    assert client.get(found["link"]).json == found
    assert client.get(f"/api/videos/{quote(video_id, safe='')}").json == found
    assert found["times"] == searcher.gallery.videos.seconds[number].tolist()
    assert found["frames"] == len(found["times"]) == len(found["links"]["thumbnails"])
    assert found["length"] == searcher.attributes.length_B[number]
    place = list(IDS.values()).index(video_id)
    frame = client.get(found["links"]["thumbnails"][-1])
    assert (frame.data, frame.mimetype) == (jpeg(20 * place + 2 * (found["frames"] - 1)), "image/jpeg")
    assert client.get(f"/api/thumbnails/{quote(video_id)}/{found['frames']}").status_code == 404
    file = videos / found["file"]
    assert found["playable"] == file.exists() == (place < 2)
    assert found["table"] == {"video": found["file"] if place < 2 else "", "year": ["2020", "2024", *[""] * 5][place]}
    if place < 2:
        part = client.get(found["links"]["file"], headers={"Range": "bytes=100-199"}, buffered=True)
        assert (part.status_code, part.data) == (206, file.read_bytes()[100:200])
        past = client.get(found["links"]["file"], headers={"Range": "bytes=99999999-"}, buffered=True)
        assert (past.status_code, past.mimetype) == (416, "application/json")
        assert past.headers["Content-Range"] == f"bytes */{file.stat().st_size}"
    else:
        assert found["links"]["file"] is None
        assert client.get(f"/api/files/{quote(video_id)}").status_code == 404


def test_videos_are_listed_in_parts(client: FlaskClient) -> None:
    whole = client.get("/api/videos").json
    assert whole is not None
    assert [video["video_id"] for video in whole["results"]] == sorted(IDS.values())
    assert whole["gallery"] == len(IDS)
    part = client.get("/api/videos?top=2&skip=6").json
    assert part == {"gallery": len(IDS), "results": whole["results"][6:]}
    for video in whole["results"]:
        known = client.get(video["link"]).json
        assert known is not None
        assert video.items() <= known.items()


def test_captions_of_a_video_are_ranked_as_the_command_ranks_them(
    client: FlaskClient, cache: FeatureCache, options: ServeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    without = client.get("/api/captions/one")
    assert (without.status_code, "has no captions" in without.text) == (404, True)
    with Answering(Searcher(replace(options, cache=cache.path, table=None, top=3))) as other:
        found = make_app(other, None, options.run, options.host).test_client()
        video = found.get("/api/videos/video3").json
        assert video is not None
        captions = found.get(video["links"]["captions"]).json
    search.main(SearchOptions(Path(cache.path), options.run, video="video3", top=3, device="cpu", quiet=True, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert captions is not None
    assert alike(captions, {name: printed[name] for name in captions})
    assert len(captions["results"]) == 3


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        ({}, "the query is empty"),
        ({"q": "a", "colour": "red"}, "there is no field 'colour': use q, like, not, weight"),
        ({"q": "a", "image": "x"}, "there is no field 'image'"),
        ({"q": ""}, "q is empty: leave it out"),
        ({"q": "a", "path": [" "]}, "path is empty"),
        ({"q": "x" * 10_001}, "q has 10,001 characters: shorten it"),
        ({"q": "a", "not": "x" * 10_001}, "not has 10,001 characters"),
        ({"q": "a", "top": 0}, "top '0' must be a whole number from 1 to 1,000"),
        ({"q": "a", "top": 1.5}, "top '1.5' must be a whole number|top 1.5 must be a whole number"),
        ({"q": "a", "top": 10**400}, "must be a whole number from 1"),
        ({"q": "a", "min_length": 10**400}, "must be a number of at least 0"),
        ({"q": "a", "threshold": 1e39}, "threshold '1e+39' must be a number from -1,000,000,000 to 1,000,000,000"),
        ({"q": "a", "fold": "high"}, "fold 'high' must be a number"),
        ({"q": "a", "weight": 0.5}, "weight weighs a picture against words"),
        ({"q": "a", "since": "yesterday"}, "since 'yesterday' must be a date such as 2024-05-31"),
        ({"q": "a", "where": ["year"]}, "where 'year' must be COLUMN=VALUE"),
        ({"q": "a", "where": ["year" + " " * 9_000]}, "must be COLUMN=VALUE"),
        ({"q": "a", "where": ["size=1"]}, "the table of --table has no column 'size'"),
        ({"q": "a", "path": ["[" * 1_001]}, "path has 1,001 characters: shorten it to 1,000 or fewer"),
        ({"q": "a", "path": ["a"] * 21}, "path has 21 values: give 20 or fewer"),
        ({"q": "a", "path": ["nowhere"]}, "the filter lets none through"),
        ({"like": "nowhere"}, "has no video 'nowhere'"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(client: FlaskClient, sent: dict[str, Any], line: str) -> None:
    for response in (client.get("/api/search", query_string=sent), client.post("/api/search", json=sent)):
        assert response.status_code == 400
        assert response.json is not None
        assert any(one in response.json["error"] for one in line.split("|"))
        assert "\n" not in response.json["error"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b'{"q": "a", "top": ' + b"9" * 5_000 + b"}", "the body is no JSON"),
        (b'{"q": "a", "threshold": NaN}', "the body is no JSON"),
        (b'{"q": "a", "top": 1, "q": "b"}', "'q' is there more than once: give each field once"),
        (b'{"like": "\\ud800"}', "has no video '?'"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"q": null}', "q None must be a text"),
        (b'{"q": ["a"]}', "q ['a'] must be a text"),
        (b'{"q": "a", "top": true}', "top True must be a whole number"),
        (b'{"q": "a", "top": "3"}', "top '3' must be a whole number"),
        (b'{"q": "a", "threshold": 1e999}', "must be a number"),
        (b'{"q": "a", "path": "b"}', "path 'b' must be a list of texts"),
        (b'{"q": "a", "path": [3]}', "path 3 must be a text"),
    ],
)
def test_a_body_of_other_types_is_refused(client: FlaskClient, body: bytes, line: str) -> None:
    response = client.post("/api/search", data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.json is not None
    assert line in response.json["error"]


def test_values_that_are_given_twice_are_refused(client: FlaskClient) -> None:
    for response in (client.get("/api/search?q=a&q=b"), client.get("/api/videos?top=1&top=2")):
        assert (response.status_code, "has 2 values: give one" in response.text) == (400, True)


def test_what_is_no_picture_or_too_much_of_one_is_refused(client: FlaskClient) -> None:
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    for content, status, line in (
        (b"", 400, "is no picture that can be read"),
        (b"x" * 1000, 400, "is no picture that can be read"),
        (bomb.getvalue(), 400, "more than 80,000,000 pixels"),
        (bytes(20 * 2**20 + 1), 413, "more than 20 MiB"),
        (bytes(21 * 2**20), 413, ""),
    ):
        response = uploaded(client, content)
        assert response.status_code == status
        assert response.json is not None
        assert line in response.json["error"]
    for form, line in (
        ({"q": "a"}, "the form has no picture in the field image: add one"),
        ({"picture": (io.BytesIO(picture()), "a.png")}, "there is no field 'picture': use image"),
        ({"image": [(io.BytesIO(picture()), "a.png"), (io.BytesIO(picture()), "b.png")]}, "image has 2 pictures: give one"),
    ):
        response = client.post("/api/search", data=form, content_type="multipart/form-data")
        assert (response.status_code, line in response.text) == (400, True)
    assert client.post("/api/search", json={"q": "x" * 2**18}).status_code == 413
    assert client.post("/api/search", data={"q": "a"}).status_code == 415
    assert client.post("/api/search", data="q=a", content_type="text/plain").status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/api/",
        "/api/nothing",
        "/api/videos/",
        "/api/videos/nowhere",
        "/api/videos/../../etc/passwd",
        "/api/videos/%2e%2e/one",
        "/api/files/..%2f..%2fetc%2fpasswd",
        "/api/files//etc/passwd",
        "/api/files/video1.mp4",
        "/api/thumbnails/one",
        "/api/thumbnails/one/-1",
        "/api/thumbnails/one/999999999999999999999",
        "/api/captions/nowhere",
    ],
)
def test_nothing_else_is_there(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (404, "application/json")
    assert response.json is not None
    assert response.json.keys() == {"error"}


def test_other_methods_and_foreign_names_get_json_too(client: FlaskClient) -> None:
    response = client.delete("/api/search")
    assert (response.status_code, response.mimetype) == (405, "application/json")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    foreign = client.get("/api/health", headers={"Host": "evil.example"})
    assert (foreign.status_code, foreign.mimetype) == (400, "application/json")
    # People read the page.
    assert client.get("/nowhere").mimetype == "text/plain"


def test_a_token_and_a_server_that_stops_are_said_in_json(answering: Answering, options: ServeOptions) -> None:
    token = "a token of this test".replace(" ", "-")
    asking = make_app(answering, None, options.run, options.host, Access(token=token)).test_client()
    refused = asking.get("/api/videos/one")
    assert (refused.status_code, refused.mimetype) == (401, "application/json")
    assert refused.headers["WWW-Authenticate"].lower().startswith("bearer")
    assert asking.get("/api/videos/one", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    with Answering(Searcher(options)) as stopped:
        pass
    busy = make_app(stopped, None, options.run, options.host).test_client().get("/api/search?q=a")
    assert (busy.status_code, busy.mimetype) == (503, "application/json")
    assert int(busy.headers["Retry-After"]) > 0


def test_the_server_says_how_it_is(client: FlaskClient) -> None:
    assert client.get("/api/health").json == {"status": "ok", "videos": len(IDS), "waiting": 0}


def test_every_field_and_every_address_is_described(client: FlaskClient) -> None:
    found = client.get("/api/openapi.json").json
    assert found is not None
    rules = [rule for rule in client.application.url_map.iter_rules() if rule.rule.startswith("/api/")]
    routes = {(rule.rule, method.lower()) for rule in rules for method in (rule.methods or ()) if method not in ("HEAD", "OPTIONS")}
    plain = {(path.replace("video_id:", "").replace("int:", "").replace("<", "{").replace(">", "}"), method) for path, method in routes}
    described = {(path, method) for path, item in found["paths"].items() for method in item if method != "parameters"}
    assert described == plain
    get, post = found["paths"]["/api/search"]["get"], found["paths"]["/api/search"]["post"]
    assert [parameter["name"] for parameter in get["parameters"]] == list(FIELDS)
    content = post["requestBody"]["content"]
    assert list(content["application/json"]["schema"]["properties"]) == list(FIELDS)
    assert list(content["multipart/form-data"]["schema"]["properties"]) == ["image", *FIELDS]
    for field, schema in content["application/json"]["schema"]["properties"].items():
        for value in [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]:
            response = client.post("/api/search", json={"q": QUERY, field: value})
            # The demo set has no videos of holidays, nor of these years.
            assert response.status_code == 200 or "the filter lets none through" in response.text


def test_the_examples_of_the_guide_work(options: ServeOptions, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    text = (ROOT / "docs/guide/search.md").read_text(encoding="utf-8").partition("## From a program")[2].partition("\n## ")[0]
    (tmp_path / "ring.jpg").write_bytes(picture(kind="JPEG"))
    said = {}
    with serve.serving(replace(options, videos=None)) as address:
        text = text.replace("http://127.0.0.1:8000", address.rstrip("/")).replace("\ncurl ", "\ncurl -sS --fail-with-body ")
        for language, block in re.findall(r"^```(\w+).*\n((?:.*\n)*?)```$", text, re.MULTILINE):
            command = [sys.executable, "-"] if language == "python" else ["bash", "-es"]
            done = subprocess.run(command, input=block, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
            said[language] = done.stdout
    answers = [json.loads(line) for line in said["console"].replace("}{", "}\n{").splitlines()]
    assert [len(answer["results"]) for answer in answers] == [3, 7, 7]
    assert answers[2]["by"] == "mixed"
    # Ids are printed as they are, with their ends of lines.
    assert re.findall(r"^([1-9]) ", said["python"], re.MULTILINE) == ["1", "2", "3"]


KNOWN = {"video_id": [*IDS.values()], "like": [*IDS.values(), "one@0.5"], "where": ["year>1", "year~2"]}
"""What the gallery of these tests has; nothing else that is right is found there."""
PASSING = {"path": ["*"], "min_length": 0.5, "max_length": 1000, "since": "1960-01-01", "until": "2100-01-01", "threshold": -1000}
"""Values that let every video of it through."""


def narrowed(document: Any) -> Any:
    """The description with values of KNOWN and PASSING, so that right requests find something."""
    if isinstance(document, list):
        return [narrowed(part) for part in document]
    if not isinstance(document, dict):
        return document
    found = {name: narrowed(part) for name, part in document.items()}
    if found.get("in"):
        found["schema"] = only_known(found["name"], found["schema"])
    if found.get("type") == "object" and "additionalProperties" in found:
        found["properties"] = {field: only_known(field, schema) for field, schema in found.get("properties", {}).items()}
    return found


def only_known(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    if field in PASSING:
        return {**schema, "examples": [PASSING[field]]}
    if field not in KNOWN:
        return schema
    known = {"enum": KNOWN[field]}
    return {"type": "array", "items": known, "examples": [KNOWN[field][:1]]} if schema["type"] == "array" else known


DESCRIBED = schemathesis.openapi.from_dict(narrowed(description(Shown(), VIDEOS_LISTED, "/")))
"""What schemathesis turns into requests, right ones and wrong ones, those at every bound among them."""
BESIDE_THE_SCHEMA = (
    "the query is empty",
    "not needs something to look for",
    "weight weighs a picture against words",
    "the filter lets none through",
    "the table of --table has no column",
    "has no video",
    "name a time within it",
    "is no picture that can be read",
)
"""Errors of requests that the schema lets through: it cannot relate the fields of an address, and does not know the gallery."""


def check(case: schemathesis.Case[Any], client: FlaskClient) -> None:
    def whole(environ: Any, start: Any) -> list[bytes]:
        """The application, with its files closed after each request, as a server does and this client does not."""
        parts, status, headers = run_wsgi_app(client.application, environ, buffered=True)
        start(status, headers.to_wsgi_list())
        return list(parts)

    # With the address of a server, the client quotes paths.
    response = case.call("http://localhost", app=whole)
    excluded: list[CheckFunction] = []
    if response.status_code == 400 and any(line in response.text for line in BESIDE_THE_SCHEMA):
        excluded.append(positive_data_acceptance)
    body = case.body if case.media_type == "multipart/form-data" and isinstance(case.body, dict) else {}
    # Every value of a form is a text: null arrives as one, and so does a list of one text.
    of_other_type = any(not isinstance(value, str) for field, value in body.items() if field not in (*NUMBERS, *REPEATED, "image"))
    # A form of too many values may also be refused as too large, which schemathesis does not expect.
    if of_other_type or response.status_code == 413:
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


@DESCRIBED.parametrize()
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_description_is_true(case: schemathesis.Case[Any], client: FlaskClient) -> None:
    check(case, client)


@pytest.mark.long
@DESCRIBED.parametrize()
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_description_is_true_of_many_more_requests(case: schemathesis.Case[Any], client: FlaskClient) -> None:
    check(case, client)
