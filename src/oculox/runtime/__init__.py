"""A model that can be run: opening, preprocessing, one module per backend."""
