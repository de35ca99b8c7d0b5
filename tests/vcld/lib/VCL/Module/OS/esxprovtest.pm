package VCL::Module::OS::esxprovtest;

# SPDX-License-Identifier: Apache-2.0
#
# An OS module for the real vcld and guests that nobody can log in to: every step that would go there by ssh is answered
# here. What VCL keeps inside a guest is kept in a file a computer below $ESXPROV_TEST_WORK/guests. post_load() checks
# that vcld would connect to the address which the database has, as a login by name would.

use strict;
use warnings;

use base qw(VCL::Module::OS);

use VCL::utils;

our $VERSION = '0.1';

sub _file { my ($self) = @_; return "$ENV{ESXPROV_TEST_WORK}/guests/" . $self->data->get_computer_short_name() }

sub _remembered {
	my ($self) = @_;
	open(my $file, '<', $self->_file) or return {};
	my %facts = map { /^(\w+)=(.*)$/ } <$file>;
	close($file);
	return \%facts;
}

sub _remember {
	my ($self, %new) = @_;
	my %facts = (%{$self->_remembered}, %new);
	open(my $file, '>', $self->_file) or return 0;
	print {$file} map { "$_=$facts{$_}\n" } sort keys %facts;
	close($file);
	return 1;
}

sub post_load {
	my ($self) = @_;
	my $target  = determine_remote_connection_target($self->data->get_computer_short_name());
	my ($row)   = database_select('SELECT privateIPaddress FROM computer WHERE id = ' . $self->data->get_computer_id());
	my $address = $row->{privateIPaddress} || 'no address';
	if ($target ne $address) {
		notify($ERRORS{'WARNING'}, 0, "esxprovtest: vcld would connect to $target, the database has $address");
		return 0;
	}
	return $self->_remember(up => 1, revision => $self->data->get_imagerevision_id(), tainted => 0, post_load => 0);
}

# As a stock OS module does it: shut down, and in the end pull the plug.
sub pre_capture {
	my ($self, $arguments) = @_;
	$self->_remember(up => 0);
	return 1 if ($arguments->{end_state} || 'off') ne 'off';
	return $self->provisioner->power_off() && $self->provisioner->wait_for_power_off(60, 2);
}

sub execute {
	my ($self, @arguments) = @_;
	my $command = ref($arguments[0]) eq 'HASH' ? $arguments[0]{command} : $arguments[0];
	return (0, [defined($command) && $command =~ /uname/ ? 'Linux esxprovtest' : '']);
}

# A guest that was removed has no address; whoever removed it could not tell the file here.
sub is_ssh_responding {
	my ($self) = @_;
	my ($row) = database_select('SELECT privateIPaddress FROM computer WHERE id = ' . $self->data->get_computer_id());
	return $row->{privateIPaddress} && $self->_remembered->{up} ? 1 : 0;
}

sub get_current_imagerevision_id { my ($self) = @_; return $self->_remembered->{revision} }
sub get_tainted_status           { my ($self) = @_; return $self->_remembered->{tainted} }
sub set_tainted_status           { my ($self) = @_; return $self->_remember(tainted => 1) }
sub get_post_load_status         { my ($self) = @_; return $self->_remembered->{post_load} }
sub set_post_load_status         { my ($self) = @_; return $self->_remember(post_load => 1) }

# These succeed without doing anything.
for my $name (qw(wait_for_response wait_for_ssh wait_for_reboot wait_for_ping reboot shutdown reserve grant_access post_reserve
	post_initial_connection process_connect_methods is_user_connected user_logged_in sanitize pre_reload post_capture
	post_reservation update_public_ip_address)) {
	no strict 'refs';    ## no critic (ProhibitNoStrict)
	*{$name} = sub { return 1 };
}

1;
