"""What computes: devices, groups of processes, matrix products of one shape, tensors in files."""
