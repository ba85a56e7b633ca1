"""How good predictions are: detections against truth. Only ``transforms`` knows Beam."""
