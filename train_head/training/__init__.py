"""The training loop, with checkpoints, multi-process gradients, fine-tuning of CLIP, and logs."""
