"""The frozen networks whose features are inverted, their weights, and what they are fed."""
