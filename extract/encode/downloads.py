"""Files from Hugging Face: fetched, checked against what the hub says of them, and found in its cache."""

import hashlib
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from data.base.errors import UserError, one_line
from data.base.writable import UNWRITABLE
from data.cache.extraction import LOCAL_DIR
from data.compute.memory import raise_if_exhausted
from extract.encode.library import OF_A_FILE, silent

_FORMS = (
    *(("tokenizer.json",), ("spiece.model",), ("sentencepiece.bpe.model",), ("tokenizer.model",), ("vocab.txt",)),
    ("vocab.json", "merges.txt"),
)
"""Files of a Hugging Face tokenizer that hold its whole vocabulary."""


def hub_file(repository: str, names: Sequence[str], which: str) -> Path:
    """The first of these files that a repository has, downloaded unless it is here. `which` names it in messages.

    open_clip's own function tries the next name after any error, so it reports a lost connection as a file that does not exist.

    Raises UserError if the hub has no such repository or none of the files, or if a file is damaged, and OSError if it cannot be
    downloaded or stored.
    """
    hub: Any = _hub()
    unreachable: Exception | None = None
    for name in names:
        unreachable = unreachable or why_unreachable(repository, name, which)
        try:
            path = Path(hub.hf_hub_download(repository, name, local_files_only=unreachable is not None))
        except hub.errors.EntryNotFoundError as error:
            if isinstance(error, hub.errors.LocalEntryNotFoundError):
                unreachable = unreachable or error
        except hub.errors.HfHubHTTPError.__bases__ as error:  # also what the library raises that the client sends its requests with
            raise ConnectionError(one_line(error)) from error
        else:
            check_file(path, which)
            return path
    if unreachable is not None:
        raise ConnectionError(one_line(unreachable)) from unreachable
    raise UserError(f"{which}: {repository} on Hugging Face has no {' and no '.join(names)}: choose another model")


def why_unreachable(repository: str, name: str, which: str) -> Exception | None:
    """Why the hub cannot be asked for a file, or None if it answers. Before a download, says so on standard error.

    This asks once. The client's own functions try again for half a minute, and more than one of them for each model.

    Raises UserError if the hub has no such repository.
    """
    if not _is_repository(repository):
        raise UserError(f"{which}: {repository} is not the name of a repository on Hugging Face: give OWNER/NAME")
    hub: Any = _hub()
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, name))
    except hub.errors.RepositoryNotFoundError as error:
        raise UserError(f"{which}: {repository} does not exist on Hugging Face, or is private: check the name, or set HF_TOKEN") from error
    except hub.errors.HfHubHTTPError:
        return None
    except hub.errors.HfHubHTTPError.__bases__ as error:  # what its client raises, and OSError
        found: Exception = error
        return found
    if in_cache(repository, name) is None:
        print(f"fetching {name} of {repository} from Hugging Face", file=sys.stderr)
    return None


def check_file(path: Path, which: str) -> None:
    """Compare a downloaded file with the SHA-256 that the hub gave. The client compares the size alone.

    The client's cache keeps a large file under that SHA-256, and a small one, which is not compared, under git's hash of 40 digits.
    Raises UserError if the file is damaged.
    """
    stored = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", stored.name) is None:
        return
    with stored.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != stored.name:
        raise UserError(f"{which}: {stored} is damaged, its SHA-256 is not the one that Hugging Face gives: delete it, and run this again")


def named_as(name: str, pretrained: str | None) -> str:
    """A model, or weights of an architecture, in a message about a download."""
    return f"--model {name}" if pretrained is None else f"the weights of {name} ({pretrained})"


def downloaded(fetch: Callable[[], str | Path], name: str, pretrained: str | None = None, tag: Mapping[str, Any] | None = None) -> Path:
    """Path of the file that `fetch` downloads. Raises UserError, naming model and weights, if it cannot be downloaded or stored."""
    try:
        # A full disk only causes a warning; the error that follows does not mention it.
        with silent(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            return Path(fetch())
    except UserError:
        raise
    except OF_A_FILE as error:
        raise_if_exhausted(error)
        which = named_as(name, pretrained)
        full = [str(warning.message) for warning in warned if "disk space" in str(warning.message)]
        cause = _cause(error)
        reason = one_line(RuntimeError(full[0])) if full else reason_of(error)
        if full or (isinstance(cause, OSError) and cause.errno in UNWRITABLE):
            where = cause.filename if isinstance(cause, OSError) and cause.filename else "the download folder"
            raise UserError(f"{which} cannot be stored in {where} ({reason}): make room, or set HF_HOME to another folder") from error
        if tag is None:
            what, option = "its folder", f"--model {LOCAL_DIR}FOLDER"
        else:
            origin = f"{tag['hf_hub'].rstrip('/')} on Hugging Face" if tag.get("hf_hub") else tag.get("url")
            what, option = f"the file from {origin}", "--pretrained FILE"
        remedy = f"download {what} on a machine with a network, copy it to this one, and name it with {option}"
        raise UserError(f"{which} cannot be downloaded here: {remedy} ({reason})") from error


def _cause(error: BaseException) -> BaseException:
    """The start of a chain of exceptions: the libraries wrap the cause in exceptions of their own."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def reason_of(error: BaseException) -> str:
    """What happened, in one line, as the start of a chain of exceptions has it."""
    cause = _cause(error)
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).strip().partition("\n")[0]
    return one_line(RuntimeError(said or type(cause).__name__))


def in_cache(repository: str, name: str) -> Path | None:
    """A file of a repository in the hub's cache, or None."""
    cached = _hub().try_to_load_from_cache(repository, name) if _is_repository(repository) else None
    return Path(cached) if isinstance(cached, str) else None


def has_tokenizer(repository: str) -> bool:
    """Whether the hub's cache holds all files of a tokenizer, in one of the forms that they come in."""
    # None if nobody asked the hub for the file yet, and a mark if the hub has no such file.
    if not _is_repository(repository) or _hub().try_to_load_from_cache(repository, "tokenizer_config.json") is None:
        return False
    return any(all(in_cache(repository, file) for file in form) for form in _FORMS)


def check_vocabulary(repository: str, which: str) -> None:
    """Raise UserError if a file of a tokenizer in the hub's cache is damaged."""
    for cached in (in_cache(repository, file) for form in _FORMS for file in form):
        if cached is not None:
            check_file(cached, which)


def _hub() -> ModuleType:
    return importlib.import_module("huggingface_hub")


def _is_repository(name: str) -> bool:
    """Whether this can be the name of a repository on Hugging Face: NAME or OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the hub's progress bars, one for each of a tokenizer's small files."""
    library = _hub().utils
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()
