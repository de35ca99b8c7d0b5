"""What lies beside an image's disk in the golden library. Pure: bytes in, facts out."""
