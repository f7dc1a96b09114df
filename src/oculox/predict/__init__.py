"""From pictures to detections, with a network in any format."""
