"""Pictures of alignment, drawn without a screen."""
