"""ESX provisioning for Apache VCL: handlers, placement, leases and the service around them."""
