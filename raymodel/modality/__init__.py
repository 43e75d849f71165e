"""What raw data of a kind is, as a model reads it."""
