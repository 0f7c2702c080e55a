"""Results held against each other: read back, put together over seeds, tested, tabled, plotted."""
