"""What a model's features are worth: zero-shot correspondence."""
