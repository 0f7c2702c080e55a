"""Measures the server of the search page under many clients."""
