"""Options of `python -m search.serve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

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
    queries_at_once: Annotated[int, About.MACHINE] = 16
    """Queries that are answered together, in one pass over the gallery, if so many wait; at most 16. 1 answers one after another."""
    token: Annotated[str | None, About.ACCESS] = None
    """What everybody has to know who searches: people give it in a form, programs as `Authorization: Bearer TOKEN`. Other users of the
    machine can read a command line; the environment variable GLCCL_SEARCH_TOKEN, which is the default, they cannot. Default: no token."""
    rate: Annotated[float | None, About.ACCESS] = None
    """Requests a second of each client address, thumbnails aside; ten seconds' worth may come at once. Default: any number."""
    public_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, About.ACCESS] = ()
    """Another host name that the page is opened by, such as that of a proxy. May be repeated."""
    trusted_proxy: Annotated[str | None, About.ACCESS] = None
    """IP address of a proxy in front, whose X-Forwarded-For and X-Forwarded-Proto are believed. Default: they are ignored."""
