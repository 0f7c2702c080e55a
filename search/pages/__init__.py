"""Search results as web pages: a stand-alone file, and a local server."""
