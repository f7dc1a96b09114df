"""A model over a dataset, and the COCO metrics."""
