package VCL::Module::OS::Standin;

# SPDX-License-Identifier: Apache-2.0
#
# An OS module for guests that cannot be logged in to. What vcld keeps inside the guest (which revision it is, whether
# it was used) is kept in one file a computer in $VCL_GUESTS. post_load() checks what a real one needs first: that
# vcld's own look-up by name leads to the address in the database; $VCL_GUEST_PROBE, a command, is run with that
# address as its last argument and must succeed, e.g. 'ip netns exec guests ping -c1 -W5'.

use strict;
use warnings;

use VCL::utils;

use base qw(VCL::Module);

sub _path { my ($self) = @_; return "$ENV{VCL_GUESTS}/" . $self->data->get_computer_short_name() }

sub _read {
	my ($self) = @_;
	open(my $file, '<', $self->_path) or return {};
	my %facts = map { chomp; split(/=/, $_, 2) } <$file>;
	close($file);
	return \%facts;
}

sub _write {
	my ($self, %facts) = @_;
	my %all = (%{$self->_read}, %facts);
	open(my $file, '>', $self->_path) or return 0;
	print {$file} map { "$_=$all{$_}\n" } sort keys %all;
	close($file);
	return 1;
}

sub post_load {
	my ($self) = @_;
	my $name   = $self->data->get_computer_short_name();
	my $target = determine_remote_connection_target($name);
	my ($row)  = database_select('SELECT privateIPaddress AS address FROM computer WHERE id = ' . $self->data->get_computer_id());
	my $known  = $row && defined($row->{address}) ? $row->{address} : 'nothing';
	if ($target ne $known) {
		notify($ERRORS{WARNING}, 0, "post_load: vcld would connect to $target, the database has $known");
		return 0;
	}
	if ($ENV{VCL_GUEST_PROBE}) {
		local $SIG{CHLD} = 'DEFAULT';
		if (system("$ENV{VCL_GUEST_PROBE} $target >&2") != 0) {
			notify($ERRORS{WARNING}, 0, "post_load: nobody answers at $target");
			return 0;
		}
	}
	return $self->_write(up => 1, imagerevision_id => $self->data->get_imagerevision_id(), tainted => 0, post_load => 0);
}

# A real one shuts the guest down by ssh, waits, and falls back on the provisioning module's power_off.
sub pre_capture {
	my ($self, $arguments) = @_;
	$self->_write(up => 0, imagerevision_id => $self->data->get_imagerevision_id());
	return 1 if ($arguments->{end_state} || 'off') ne 'off';
	return 1 if $self->provisioner->power_status() =~ /off/i;
	return $self->provisioner->power_off() && $self->provisioner->wait_for_power_off(60, 1) ? 1 : 0;
}

sub is_ssh_responding            { my ($self) = @_; return $self->_read->{up} ? 1 : 0 }
sub get_current_imagerevision_id { my ($self) = @_; return $self->_read->{imagerevision_id} }
sub get_tainted_status           { my ($self) = @_; return $self->_read->{tainted} }
sub get_post_load_status         { my ($self) = @_; return $self->_read->{post_load} }
sub set_post_load_status         { my ($self) = @_; return $self->_write(post_load => 1) }
sub set_tainted_status           { my ($self) = @_; return $self->_write(tainted => 1) }
sub guest_is_gone                { my ($self) = @_; unlink($self->_path); return 1 }

1;
