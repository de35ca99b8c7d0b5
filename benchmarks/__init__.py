"""Ratios of what esxprov takes to what it could take at the least, measured side by side in one run: `make bench`."""
