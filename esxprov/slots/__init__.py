"""VCL's computer rows for a pool: how many there are to be, what they look like, and bringing VCL's tables there."""
