"""Serves search as a local web page: `python -m search.serve --cache DIR --run RUN`."""

from search.serve.options import ServeOptions
from search.serve.server import main, serving

__all__ = ["ServeOptions", "main", "serving"]
