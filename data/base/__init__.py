"""What every room stands on: errors, streams, files written whole, progress, processes, devices."""
