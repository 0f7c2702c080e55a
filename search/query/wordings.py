"""Several wordings of one query: a prefix, or templates such as `a video of {}`, as prompts of CLIP are made."""

from collections.abc import Sequence

from data.base.errors import UserError
from data.base.quoting import quote

PLACE = "{}"
"""What a template has in place of the query."""


class Wordings:
    """Makes the texts that are scored for a query, whose scores are averaged."""

    def __init__(self, prefix: str = "", templates: Sequence[str] = ()) -> None:
        """Raises UserError for a template without a place for the query, or for a prefix with one or beside templates."""
        for template in templates:
            if PLACE not in template:
                raise UserError(
                    f"--query-template {quote(template)} has no place for the query: write {PLACE} there, as in 'a video of {PLACE}'"
                )
        if PLACE in prefix:
            raise UserError(f"--query-prefix {quote(prefix)} has a place for the query: give it as --query-template")
        if prefix and templates:
            raise UserError("--query-prefix and --query-template both say how queries are worded: leave one of them out")
        self._templates = tuple(dict.fromkeys(templates)) or (f"{prefix.strip()} {PLACE}".strip() if prefix.strip() else PLACE,)

    def of(self, query: str) -> list[str]:
        """The wordings of a query, each once."""
        return [template.replace(PLACE, query).strip() for template in self._templates]
