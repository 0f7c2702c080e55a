"""Devices, process groups, matrix products of constant shape, tensors in files."""
