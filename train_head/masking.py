"""The value that masks scores and weights."""

FAR_BELOW = -1e30
"""Masks an entry before a softmax or a maximum: exp(FAR_BELOW) is 0 in float32 and bfloat16.

Minus infinity would give NaN where all entries are masked."""
