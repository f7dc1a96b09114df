"""Images and pages of what a model finds."""
