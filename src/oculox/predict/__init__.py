"""From images to detections, with a network in any format."""
