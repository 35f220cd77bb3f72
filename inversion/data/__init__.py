"""Images from disk to batches: sources, the split, the cache of decoded images and features, the datamodules."""
