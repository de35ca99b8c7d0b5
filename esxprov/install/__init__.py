"""What an installation puts on a management node and into VCL's database, and takes away again."""
