"""The private IP of a VM: from what its DHCP server writes down, else from dhcpd itself, the wire, or the guest."""
