"""What the decoders show: one file a study, and what they share."""
