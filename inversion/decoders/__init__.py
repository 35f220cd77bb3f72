"""From features back to an image: the decoders, the standardisation of their input, and the losses."""
