"""Options of `python -m search.serve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data.cli.command_line import About
from search.options import RetrievalOptions


@dataclass(frozen=True)
class ServeOptions(RetrievalOptions):
    """Serve a search page with thumbnails and video players, on this machine only unless --host says otherwise."""

    videos: Annotated[Path | None, About.INPUT] = None
    """Folder of the video files, for the players. Default: the folder they were extracted from, if it still exists."""
    host: Annotated[str, About.OUTPUT] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets every machine on the network search and watch."""
    port: Annotated[int, About.OUTPUT] = 8000
    """Port to listen on; 0 picks a free port."""
    queue: Annotated[int, About.MACHINE] = 64
    """Requests that may wait while others are answered. More are refused with status 503. Queries that wait are answered together."""
