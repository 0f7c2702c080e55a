"""JSON Schemas of what the JSON interface takes and returns."""

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any, get_args

from search.query.parse import FIELDS, LONGEST_PATTERN, MOST_VALUES, NUMBERS, REPEATED
from search.query.query import PICTURE_WEIGHT, Shown
from search.retrieval.moments import Measure
from search.retrieval.queries import MAX_QUERY

Schema = dict[str, Any]

VISIBLE = r"[^\s\u0000-\u001f\u007f-\u009f]"
"""A character that can be seen."""
CONDITION = r"[^\s][\s\S]*[=<>~]"
MEANINGS = {
    "q": "What to look for, in words.",
    "like": "Look for more like this: the id of a video, or VIDEO@TIME for its frame nearest to a time, in seconds or as 1:23.4.",
    "not": "Words whose scores count against a video.",
    "weight": f"Weight of the picture and of `like` beside the words; {PICTURE_WEIGHT} if it is not given. Needs both.",
    "path": "Only videos whose path below the folder, or id, matches one of these shell patterns; without wildcards, contains it.",
    "min_length": "Only videos of at least this many seconds.",
    "max_length": "Only videos of at most this many seconds.",
    "since": "Only videos whose file was last changed on this day or later.",
    "until": "Only videos whose file was last changed on this day or before.",
    "where": "Only videos for which all of these hold in the server's table: COLUMN=VALUE, or with !=, <, <=, >, >= or ~ (contains).",
    "top": "Number of results.",
    "skip": "Leave out so many of the best results.",
    "threshold": "Only results with at least this score.",
    "moments": "Number of moments of each video.",
    "apart": "Least number of seconds between the moments of a video.",
    "fold": "Fold a video into a better result if the cosine of their mean frames is at least this.",
}
EXAMPLES: dict[str, Any] = {
    "q": "a red ring",
    "not": "a blue cube",
    "path": ["holidays/*"],
    "min_length": 2.5,
    "since": "2024-05-31",
    "where": ["year>=2020"],
    "top": 3,
    "moments": 3,
    "fold": 0.98,
}


def field_schemas(shown: Shown) -> dict[str, Schema]:
    """The fields of a query. `shown` has the defaults of what is shown."""
    defaults = {field.name: getattr(shown, field.name) for field in fields(shown) if getattr(shown, field.name) is not None}
    found = {}
    for field in FIELDS:
        schema: Schema = {"description": MEANINGS[field], **_kind(field)}
        if field in defaults:
            schema["default"] = defaults[field]
        if field in EXAMPLES:
            schema["examples"] = [EXAMPLES[field]]
        found[field] = schema
    return found


def _kind(field: str) -> Schema:
    if field in NUMBERS:
        low, high, whole = NUMBERS[field]
        bounds = {"minimum": low, "maximum": high}
        return {"type": "integer" if whole else "number"} | {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
    text: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY, "pattern": VISIBLE}
    if field in ("since", "until"):
        return {"type": "string", "format": "date"}
    if field == "where":
        text["pattern"] = CONDITION
    if field == "path":
        text["maxLength"] = LONGEST_PATTERN
    return {"type": "array", "items": text, "maxItems": MOST_VALUES} if field in REPEATED else text


def json_schema(of_fields: dict[str, Schema]) -> Schema:
    """The JSON object of a POST."""
    return {
        "type": "object",
        "properties": of_fields,
        "additionalProperties": False,
        "anyOf": [{"required": ["q"]}, {"required": ["like"]}],
        "dependentRequired": {"weight": ["q", "like"]},
    }


def form_schema(of_fields: dict[str, Schema]) -> Schema:
    """The form of a POST, with a picture."""
    picture: Schema = {"description": "The picture to look for: JPEG, PNG or WebP.", "type": "string", "format": "binary"}
    return {
        "type": "object",
        "properties": {"image": picture, **of_fields},
        "additionalProperties": False,
        "required": ["image"],
        "dependentRequired": {"weight": ["q"]},
    }


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _number(description: str, low: float | None = None) -> Schema:
    return {"type": "number", "description": description} | ({} if low is None else {"minimum": low})


def _count(description: str, low: int = 0) -> Schema:
    return {"type": "integer", "minimum": low, "description": description}


def _list(of: Schema, description: str) -> Schema:
    return {"type": "array", "items": of, "description": description}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _record(description: str, properties: dict[str, Schema], optional: Collection[str] = ()) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


_ID = _text("Id of the video. `/api/videos/ID` says more, with the id percent-encoded but for its slashes.")
_FILE = _or_null(_text("Path of the file below the folder of the videos; null if it is not known."))
_RUN: dict[str, Schema] = {
    "run": _text("What scores: the --run of the server."),
    "temperatures": {"type": "object", "additionalProperties": {"type": "number"}, "description": "Temperatures of the head, by name."},
}
_SCORE = _or_null(_number("Higher is better. Scores of different queries have different scales; null if it is infinite."))
_MOMENT: dict[str, Schema] = {
    "frame": _count("Index of the frame, as of thumbnails."),
    "seconds": _number("Time from the start of the file."),
    "clock": _text("The same as h:mm:ss.s."),
    "weight": _or_null(_number("How well the frame fits.")),
}
_BY: Schema = {"enum": list(get_args(Measure)), "description": "How frames are weighed."}
_LISTED: dict[str, Schema] = {"video_id": _ID, "file": _FILE, "length": _number("Seconds, to 1 / fps.", 0)}
_NOTES: dict[str, Schema] = {
    "cut": {
        "type": ["object", "null"],
        "description": "Where the query was cut, null if it was not: after or within a word.",
        "properties": {"after": {"type": "string"}, "within": {"type": "string"}, "tokens": {"type": "integer"}},
        "required": ["tokens"],
    },
    "no_known_word": {"type": "boolean", "description": "Whether the model knows no word of the query."},
    "no_better_than_random": {"type": "boolean", "description": "Whether random words score as well."},
    "notes": _list({"type": "string"}, "The same as sentences."),
}
RECORDS: dict[str, Schema] = {
    "Error": _record("What is wrong.", {"error": {"type": "string", "pattern": r"^[^\r\n]+$", "description": "One line."}}),
    "Moment": _record("A frame that fits.", _MOMENT),
    "Result": _record(
        "A video that was found.",
        {
            "rank": _count("From 1, over the whole ranking.", 1),
            "score": _SCORE,
            **_LISTED,
            "moment": _record("The best moment.", {**_MOMENT, "by": _BY}),
            "moments": _list(_ref("Moment"), "All moments that were asked for, best first: `moment` again, and further ones."),
            "folded": _list({"type": "string"}, "Ids of near-duplicates with lower scores."),
        },
    ),
    "Answer": _record(
        "The results of a query, best first. `python -m search --json` prints the same.",
        {
            "query": _text("The query for people."),
            **_RUN,
            "gallery": _count("Number of videos that are searched.", 1),
            "candidates": _count("With --candidates-run: the number of videos that --run scores.", 1),
            "candidates_run": _text("The run that finds these."),
            **_NOTES,
            "found": _count("Number of videos that the filter and the threshold let through."),
            "by": _BY,
            "results": _list(_ref("Result"), "At most `top` results, after `skip`."),
        },
        optional=("candidates", "candidates_run"),
    ),
    "Listed": _record("A video in the list.", {**_LISTED, "link": _text("Address of what is known of it.")}),
    "Videos": _record(
        "A part of the list of all videos, by id.",
        {"gallery": _count("Number of all videos.", 1), "results": _list(_ref("Listed"), "At most `top`, after `skip`.")},
    ),
    "Video": _record(
        "What is known of a video.",
        {
            **_LISTED,
            "link": _text("Address of this."),
            "date": _or_null({"type": "string", "format": "date", "description": "Day on which the file was last changed."}),
            "frames": _count("Number of frames that are searched.", 1),
            "times": _list({"type": "number"}, "Their times, in seconds from the start of the file."),
            "playable": {"type": "boolean", "description": "Whether the file is there to be played."},
            "table": {
                "type": ["object", "null"],
                "additionalProperties": {"type": "string"},
                "description": "The video's row of the server's table, by column; null without a table.",
            },
            "links": _record(
                "Addresses.",
                {
                    "file": _or_null(_text("The file, null if it is not there.")),
                    "captions": _or_null(_text("The captions that fit best, null if the cache has none.")),
                    "thumbnails": _list({"type": "string"}, "A JPEG for each frame; empty if the cache has none."),
                },
            ),
        },
    ),
    "Captions": _record(
        "The captions that fit a video best.",
        {
            "video_id": _ID,
            **_RUN,
            "results": _list(
                _record("A caption.", {"rank": _count("From 1.", 1), "caption": {"type": "string"}, "score": _SCORE}), "Best first."
            ),
        },
    ),
    "Health": _record(
        "That the server answers.",
        {
            "status": {"const": "ok"},
            "videos": _count("Number of videos that are searched.", 1),
            "waiting": _count("Number of requests that wait for others."),
        },
    ),
}
"""What is returned, by name."""
