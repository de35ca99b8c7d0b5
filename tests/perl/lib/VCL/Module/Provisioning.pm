package VCL::Module::Provisioning;

# SPDX-License-Identifier: Apache-2.0
#
# Stand-in for what provisioning modules inherit: the checks inside the guest, and waiting for power off.

use strict;
use warnings;

use base qw(VCL::Module);

use VCL::utils;

sub node_status {
	my ($self) = @_;
	return 'RELOAD' if !$self->os->is_ssh_responding();
	my $loaded = $self->os->get_current_imagerevision_id();
	return 'RELOAD' if !$loaded || $loaded ne $self->data->get_imagerevision_id();
	return 'RELOAD' if $self->os->get_tainted_status();
	return 'POST_LOAD' if !$self->os->get_post_load_status();
	return 'READY';
}

sub wait_for_power_off {
	my ($self, $total_s, $delay_s) = @_;
	return $self->code_loop_timeout(sub {
		my $status = $self->power_status();
		return defined($status) && $status =~ /off/i ? 1 : 0;
	}, [], 'waiting for power off', defined($total_s) ? $total_s : 300, $delay_s || 15);
}

1;
