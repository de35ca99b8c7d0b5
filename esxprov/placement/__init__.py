"""Which host takes a VM: pure filters and scores over a snapshot of the world, and claims in MariaDB."""
