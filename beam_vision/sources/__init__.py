"""The world -> ImageRef -> EncodedImage: folders, globs, manifests and TFRecord datasets."""
