"""What is known of where a life was recorded: camera poses, and the 3D points that each frame sees."""
