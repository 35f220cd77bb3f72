"""From features back to an image: the networks, what features pass through before them, and the losses."""
