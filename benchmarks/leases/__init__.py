"""What the reading of dhcpd's lease file costs and how soon it tells, each against something else in the same run."""
