"""Pictures as the encoder takes them: resized on the CPU or on the device, and there before they are needed."""
