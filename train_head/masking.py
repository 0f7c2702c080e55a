"""The value that stands for scores and weights that must not count."""

FAR_BELOW = -1e30
"""What masks an entry before a softmax or a maximum: its exponential is 0 in float32 and bfloat16. Unlike minus infinity, it makes no NaN
where all entries are masked."""
