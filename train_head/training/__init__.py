"""The training loop and what it needs: checkpoints, gradients of several processes, fine-tuning of CLIP, logs."""
