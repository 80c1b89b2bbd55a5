"""What a model's features are worth elsewhere: depth, correspondence, classification."""
