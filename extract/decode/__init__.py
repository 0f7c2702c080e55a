"""From a video file to pictures: which frames are wanted, and the two decoders that give them."""
