"""The private IP of a VM from what dhcpd writes down: parser and index (pure), follower and watcher (files), wait."""
