"""EncodedImage -> Prediction: finds what a model takes and gives, and runs it under Beam's RunInference."""
