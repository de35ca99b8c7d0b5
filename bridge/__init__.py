"""The wire between vcld and esxprov: what both sides agree on. Knows no VM, host or table."""
