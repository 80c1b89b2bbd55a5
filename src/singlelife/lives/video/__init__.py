"""Videos: what they are read from, and the frames that a life keeps of them."""
