"""Weights from Hugging Face, checked against what the hub says of them."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.base.errors import UserError, one_line


def hub_file(repository: str, names: Sequence[str], which: str) -> Path:
    """The first of these files that a repository has, downloaded unless it is here. `which` names it in messages.

    open_clip's own function tries the next name after any error, so it reports a lost connection as a file that does not exist.

    Raises UserError if the hub has no such repository or none of the files, or if a file is damaged, and OSError if it cannot be
    downloaded or stored.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    unreachable: Exception | None = None
    for name in names:
        try:
            path = Path(hub.hf_hub_download(repository, name))
        except hub.errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{which}: {repository} does not exist on Hugging Face, or is private: check the name, or set HF_TOKEN"
            ) from error
        except hub.errors.LocalEntryNotFoundError as error:
            unreachable = unreachable or error
        except hub.errors.EntryNotFoundError:
            continue
        except hub.errors.HfHubHTTPError.__bases__ as error:  # also what the library raises that the client sends its requests with
            raise ConnectionError(one_line(error)) from error
        else:
            check_file(path, which)
            return path
    if unreachable is not None:
        raise unreachable
    raise UserError(f"{which}: {repository} on Hugging Face has no {' and no '.join(names)}: choose another model")


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
