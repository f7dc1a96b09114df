"""Pure functions on boxes and prediction cells."""
