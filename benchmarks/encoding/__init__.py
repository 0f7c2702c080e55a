"""Ways to encode pictures on a CPU."""
