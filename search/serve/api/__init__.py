"""The JSON interface of the server: /api/*."""

from search.serve.api.handlers import Api
from search.serve.api.replies import refusal

__all__ = ["Api", "refusal"]
