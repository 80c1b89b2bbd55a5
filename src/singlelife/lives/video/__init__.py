"""Read videos, and choose and develop the frames that a life keeps."""
