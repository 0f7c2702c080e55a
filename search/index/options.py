"""Options that name an engine of candidates and where it keeps its vectors."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from data.base.errors import UserError
from data.cli.command_line import About

EngineName = Literal["faiss", "milvus"]
TOKEN_VARIABLE = "MILVUS_TOKEN"
FILE_ENDING = ".db"
"""By this ending, Milvus's client tells a file of Milvus Lite from an address."""
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the vectors are that candidates are found with."""

    engine: Annotated[EngineName, About.CANDIDATES] = "faiss"
    """What finds the candidates. faiss: an index in this process. milvus: a collection that search.build filled, in a file or on a server,
    for galleries that one machine does not hold."""
    index: Annotated[Path | None, About.CANDIDATES] = None
    """With faiss: folder that keeps the index for the next search. Default: build it each time."""
    uri: Annotated[str | None, About.CANDIDATES] = None
    """With milvus: a file that ends in .db (Milvus Lite), or the address of a server or cluster, such as http://localhost:19530."""
    collection: Annotated[str, About.CANDIDATES] = "videos"
    """With milvus: name of the collections, NAME_frames and NAME_pooled."""
    milvus_token: Annotated[str | None, About.CANDIDATES] = None
    """With milvus: USER:PASSWORD or API key of the server. Other users of the machine can read a command line; the environment variable
    MILVUS_TOKEN, which is the default, they cannot."""
    tls_ca: Annotated[Path | None, About.CANDIDATES] = None
    """With milvus: file of certificates (PEM) to trust for an https address. Default: those of the system."""
    tls_name: Annotated[str | None, About.CANDIDATES] = None
    """With milvus: name in the server's certificate, if it is not the one in the address."""


def check_engine(options: EngineOptions) -> None:
    """Raise UserError for options that do not go together, or that cannot be right."""
    if options.engine == "faiss":
        for name in ("uri", "milvus_token", "tls_ca", "tls_name"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is for --engine milvus: add it, or leave this option out")
        return
    if options.index is not None:
        raise UserError("--index keeps an index of faiss, and --engine milvus keeps vectors at --uri: leave --index out")
    if options.uri is None:
        raise UserError("--engine milvus needs --uri: a file that ends in .db, or an address such as http://localhost:19530")
    if not _COLLECTION.fullmatch(options.collection):
        raise UserError(f"--collection {options.collection} must be letters, digits and _, at most 200, and not begin with a digit")
    _check_uri(options, options.uri)


def is_file(uri: str) -> bool:
    """Whether a --uri names a file of Milvus Lite."""
    return uri.endswith(FILE_ENDING) and "://" not in uri


def _check_uri(options: EngineOptions, uri: str) -> None:
    if is_file(uri):
        if options.milvus_token is not None or options.tls_ca is not None or options.tls_name is not None:
            raise UserError("--milvus-token, --tls-ca and --tls-name are for the address of a server, and --uri is a file: leave them out")
        return
    try:
        parts = urlsplit(uri)
        # pymilvus takes every address with this ending for a file.
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not uri.endswith(FILE_ENDING)
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise UserError(f"--uri {uri} must be a file that ends in {FILE_ENDING}, or an address such as http://localhost:19530")
    if parts.username is not None:
        raise UserError(f"--uri holds a password, which lines of this program would show: give it by --milvus-token or {TOKEN_VARIABLE}")
    if parts.scheme == "http" and (options.tls_ca is not None or options.tls_name is not None):
        raise UserError(f"--tls-ca and --tls-name are for an encrypted connection: begin --uri {uri} with https")
    if options.tls_ca is not None and not options.tls_ca.is_file():
        raise UserError(f"--tls-ca {options.tls_ca}: there is no such file: name one with certificates in PEM")
