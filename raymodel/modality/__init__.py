"""What raw data of a kind is to a model: a processor for each of text, images and audio."""
