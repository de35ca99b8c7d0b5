"""Programs that look for inputs nobody thought of; `make fuzz-leases` runs one for as long as told."""
