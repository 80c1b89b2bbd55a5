"""The Hugging Face Hub: what pushing lives and models have in common, and the models that are there."""
