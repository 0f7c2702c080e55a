"""The report of an evaluation: one HTML file that needs nothing beside it, and its plots as files for papers."""
