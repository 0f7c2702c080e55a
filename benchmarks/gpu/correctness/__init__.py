"""Steps that compare what the device computes with the CPU's results."""
