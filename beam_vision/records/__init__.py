"""Images and labels as TFRecord datasets: plan, write, prove, read."""
