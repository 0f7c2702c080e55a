"""Describes the JSON interface as OpenAPI 3.1."""

from typing import Any

from search.query.parse import NUMBERS, REPEATED
from search.query.query import Shown
from search.serve.api.schemas import RECORDS, Schema, field_schemas, form_schema, json_schema

ERRORS = {
    400: "A field is wrong or unknown, or names what the gallery lacks; or the host name is foreign.",
    401: "The server wants a token.",
    403: "The page of another site made the browser ask.",
    404: "There is no such thing.",
    405: "The address takes other methods.",
    413: "The body is too large.",
    415: "The body is of another type.",
    416: "The file has no such range.",
    429: "Too many requests.",
    503: "The server is too busy, or a store does not answer.",
}
ALWAYS = (400, 401, 403, 405, 429, 503)
"""What any request may get."""
INTRODUCTION = """Finds videos, and the best moments in them, by words, by a picture or by another moment.

Errors are `{"error": "one line"}`. Fields that are not described here are refused. More may join the answers."""


def description(shown: Shown, listed: int, root: str) -> dict[str, Any]:
    """The OpenAPI document. `shown`: what a search shows unless a query says otherwise. `listed`: the same for the list of videos.
    `root`: path of the server."""
    of_fields = field_schemas(shown)
    of_list = {"top": {**of_fields["top"], "default": listed, "description": "Number of videos."}, "skip": of_fields["skip"]}
    video_id = {"name": "video_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    video_id["description"] = "Id of the video, percent-encoded; slashes may stay as they are."
    frame = {"name": "frame", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}, "description": "Index."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Video search", "version": "1", "description": INTRODUCTION},
        "servers": [{"url": root}],
        # Only a server that was started with a token wants one.
        "security": [{}, {"token": []}],
        "paths": {
            "/api/search": {
                "get": _operation("search", "Search by words or by a moment", _json("Answer"), query=of_fields),
                "post": {
                    **_operation("searchByPicture", "Search by words, by a moment, or by a picture", _json("Answer"), (413, 415)),
                    "requestBody": _body(of_fields),
                },
            },
            "/api/videos": {"get": _operation("listVideos", "List all videos, by id", _json("Videos"), query=of_list)},
            "/api/videos/{video_id}": {
                "parameters": [video_id],
                "get": _operation("getVideo", "What is known of a video", _json("Video"), (404,)),
            },
            "/api/files/{video_id}": {
                "parameters": [video_id],
                "get": _operation("getFile", "The file of a video, or ranges of it", {"video/*": {}}, (404, 416), ranges=True),
            },
            "/api/captions/{video_id}": {
                "parameters": [video_id],
                "get": _operation("getCaptions", "The captions that fit a video best", _json("Captions"), (404,)),
            },
            "/api/thumbnails/{video_id}/{frame}": {
                "parameters": [video_id, frame],
                "get": _operation("getThumbnail", "The thumbnail of a frame", {"image/jpeg": {}}, (404,)),
            },
            "/api/health": {"get": {**_operation("getHealth", "Whether the server answers", _json("Health")), "security": []}},
            "/api/openapi.json": {
                "get": _operation("getDescription", "This description", {"application/json": {"schema": {"type": "object"}}})
            },
        },
        "components": {
            "schemas": RECORDS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The --token of the server, if it has one."}},
        },
    }


def _json(record: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{record}"}}}


def _operation(
    name: str,
    summary: str,
    content: Schema,
    errors: tuple[int, ...] = (),
    query: dict[str, Schema] | None = None,
    ranges: bool = False,
) -> dict[str, Any]:
    """A GET or POST. `query`: the fields in its address."""
    responses: dict[str, Any] = {"200": {"description": "Found.", "content": content}}
    if ranges:
        responses["206"] = {"description": "The range that the header Range asks for.", "content": content}
    for status in sorted((*ALWAYS, *errors)):
        responses[str(status)] = {"description": ERRORS[status], "content": _json("Error")}
    for later in ("429", "503"):
        responses[later]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds."}}
    found: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if query is not None:
        found["parameters"] = [_parameter(field, schema) for field, schema in query.items()]
    return found


def _parameter(field: str, schema: Schema) -> dict[str, Any]:
    schema = dict(schema)
    found = {"name": field, "in": "query", "description": schema.pop("description"), "schema": schema}
    return {**found, "style": "form", "explode": True} if field in REPEATED else found


def _body(of_fields: dict[str, Schema]) -> dict[str, Any]:
    numbers = {field: {"contentType": "text/plain"} for field in NUMBERS}
    example = {"q": "a red ring", "not": "a blue cube", "path": ["holidays/*"], "min_length": 2.5, "top": 3}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": json_schema(of_fields), "examples": {"words": {"value": example}}},
            "multipart/form-data": {"schema": form_schema(of_fields), "encoding": numbers},
        },
    }
