"""The golden library: what is written beside an image, and who works on it."""
