package VCL::Module::Provisioning::esxprov;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov - VCL provisioning module for the esxprov service

=head1 SYNOPSIS

 From module or script using VCL::Module.pm:

 module row: perlpackage = 'VCL::Module::Provisioning::esxprov'

=head1 DESCRIPTION

Each subroutine that vcld calls on a provisioning module is published as an event
to RabbitMQ; the esxprov service does what it asks for on the hypervisors and
answers. What needs vcld's own process stays here: the OS module's post_load and
pre_capture, the private IP address in vcld's caches, the computer's rows.

No failure in here may end the state process: vcld's DIE handler exits even from
inside an eval, and a process that ends inside load() leaves its request stuck
for ever. So every public subroutine runs inside _guarded(), which logs a failure
once and returns what that subroutine returns on failure.

=cut

##############################################################################
use strict;
use warnings;

# Configure inheritance
use base qw(VCL::Module::Provisioning);

use VCL::utils;

use VCL::Module::Provisioning::esxprov::Config;
use VCL::Module::Provisioning::esxprov::Conversation;
use VCL::Module::Provisioning::esxprov::Envelope qw(for_reservation plain is_noimage);

our $VERSION = '0.1';

##############################################################################

=head1 OBJECT METHODS

=cut

#/////////////////////////////////////////////////////////////////////////////

=head2 initialize

 Parameters  : none
 Returns     : 1
 Description : Does nothing: vcld creates this object before every step, also
               before those which never call it. The broker is connected to when
               there is something to say.

=cut

sub initialize {
	my $self = shift;
	return _guarded($self, 'initialize', undef, sub { return 1 });
}

#/////////////////////////////////////////////////////////////////////////////

=head2 node_status

 Parameters  : none
 Returns     : string: 'READY', 'POST_LOAD' or 'RELOAD'
 Description : What VCL's own checks inside the guest say, unless the VM is not
               where and what it should be. Any doubt is a 'RELOAD'.

=cut

sub node_status {
	my $self = shift;
	return _guarded($self, 'node_status', 'RELOAD', sub {
		# Without an address nothing of ours runs there; whoever answers to the name is another machine.
		# (This one getter wants a true value where the others want 0 to log no WARNING about an unset value.)
		return 'RELOAD' if !$self->data->get_computer_private_ip_address(1);
		my $status = $self->SUPER::node_status();
		return 'RELOAD' if !defined($status) || $status !~ /^(?:READY|POST_LOAD)/i;
		my $result = $self->_ask('node_status');
		# A service older than this module does not tell the last.
		$result->{disk_right} = 1 if !exists($result->{disk_right});
		for my $fact (qw(present on_known_host sized_right disk_right)) {
			next if $result->{$fact};
			notify($ERRORS{'OK'}, 0, "VM of " . $self->data->get_computer_short_name() . " is not $fact, returning 'RELOAD'");
			return 'RELOAD';
		}
		return $status;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 does_image_exist

 Parameters  : $image_name (optional)
 Returns     : 1 it exists, 0 it is known to be absent, undefined: cannot tell
 Description : The image of this reservation if no name is given. 'noimage'
               always exists. A capture fails on anything but 0.

=cut

sub does_image_exist {
	my ($self, $image_name) = @_;
	return _guarded($self, 'does_image_exist', undef, sub {
		$image_name = $self->data->get_image_name() if !$image_name;
		return 1 if is_noimage($image_name);
		my $exists = $self->_ask('does_image_exist', $image_name)->{exists};
		die "the reply does not say whether $image_name exists\n" if !defined($exists);
		return $exists ? 1 : 0;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 retrieve_image

 Parameters  : $image_name (optional)
 Returns     : boolean
 Description : Has the image brought to where it can be loaded from.

=cut

sub retrieve_image {
	my ($self, $image_name) = @_;
	return _guarded($self, 'retrieve_image', undef, sub {
		$image_name = $self->data->get_image_name() if !$image_name;
		return 1 if is_noimage($image_name);
		$self->_ask('retrieve_image', $image_name);
		return 1;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 load

 Parameters  : none
 Returns     : boolean
 Description : Has a fresh VM built for this computer, tells vcld its address and
               host, and runs the OS module's post-load tasks. Loading 'noimage'
               only removes the VM.

=cut

sub load {
	my $self = shift;
	return _guarded($self, 'load', undef, sub {
		# What answers at the old address from here on is not this computer, whether the load succeeds or not.
		$self->_forget_guest();
		if (is_noimage(scalar($self->data->get_image_name(0)))) {
			$self->_ask('unload');
			return 1;
		}
		my $result = $self->_ask('load');
		$self->_learn_address($result->{private_ip});
		$self->_learn_vmhost($result->{vmhost_id});
		if ($self->os->can('post_load')) {
			$self->os->post_load() or die "the OS module's post_load failed, the VM is left for inspection until the next load\n";
		}
		return 1;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 unload

 Parameters  : none
 Returns     : 1
 Description : Has the computer's VM removed. Always true: vcld would leave the
               request pending for ever. What cannot be removed now is recorded by
               the service as to be destroyed.

=cut

sub unload {
	my $self = shift;
	return _guarded($self, 'unload', 1, sub {
		$self->_forget_guest();
		$self->_ask('unload');
		return 1;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 capture

 Parameters  : none
 Returns     : boolean
 Description : Prepares the guest, has it switched off and its disk stored as the
               image of this reservation.

=cut

sub capture {
	my $self = shift;
	return _guarded($self, 'capture', undef, sub {
		# Sysprep gives a machine new hardware and a new name: a VM which is copied to the same virtual hardware needs neither.
		$self->data->set_imagemeta_sysprep(0);
		$self->os->pre_capture({end_state => 'off'}) or die "the OS module's pre_capture failed\n";
		$self->_power_state() eq 'off' || $self->wait_for_power_off(600, 5) || $self->_ask('power_off');
		$self->_ask('capture');
		# The VM of an imaged computer has been removed with that; a checkpoint is switched on again and goes on.
		my $state = $self->data->get_request_state_name(0) || '';
		$self->_forget_guest() if $state eq 'image';
		return 1;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 get_image_size

 Parameters  : $image_name (optional)
 Returns     : integer, MB; undefined if it cannot be told
 Description : From 1 to 65535, which is all that image.size can hold.

=cut

sub get_image_size {
	my ($self, $image_name) = @_;
	return _guarded($self, 'get_image_size', undef, sub {
		$image_name = $self->data->get_image_name() if !$image_name;
		my $size_mb = $self->_ask('get_image_size', $image_name)->{size_mb};
		die "the reply does not say how large $image_name is\n" if !defined($size_mb) || $size_mb !~ /\A\d+(?:\.\d+)?\z/;
		return $size_mb < 1 ? 1 : $size_mb > 65535 ? 65535 : int($size_mb);
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 post_maintenance_action

 Parameters  : none
 Returns     : boolean
 Description : Has the VM of a computer in maintenance removed and takes the
               computer off its VM host, which is how VCL's web page "remove VM
               from host" works. A computer that is on no host has no VM.

=cut

sub post_maintenance_action {
	my $self = shift;
	return _guarded($self, 'post_maintenance_action', undef, sub {
		$self->_ask('post_maintenance_action') if defined(scalar($self->data->get_vmhost_profile_id(0)));
		$self->_forget_guest();
		my $computer_id = $self->data->get_computer_id();
		switch_vmhost_id($computer_id, 'NULL') or die "computer.vmhostid of computer $computer_id could not be cleared\n";
		return 1;
	});
}

#/////////////////////////////////////////////////////////////////////////////

=head2 power_status

 Parameters  : none
 Returns     : string: 'on', 'off' or 'suspended'; undefined if it cannot be told
 Description : A computer without a VM is off.

=cut

sub power_status {
	my $self = shift;
	return _guarded($self, 'power_status', undef, sub { return $self->_power_state() });
}

#/////////////////////////////////////////////////////////////////////////////

=head2 power_on

 Parameters  : none
 Returns     : boolean
 Description : Has the VM switched on. It may come up with another address, as
               after a checkpoint.

=cut

sub power_on {
	my $self = shift;
	return _guarded($self, 'power_on', undef, sub { return $self->_power('power_on') });
}

#/////////////////////////////////////////////////////////////////////////////

=head2 power_off

 Parameters  : none
 Returns     : boolean
 Description : Has the VM switched off.

=cut

sub power_off {
	my $self = shift;
	return _guarded($self, 'power_off', undef, sub { return $self->_power('power_off') });
}

#/////////////////////////////////////////////////////////////////////////////

=head2 power_reset

 Parameters  : none
 Returns     : boolean
 Description : Has the VM reset. It may come up with another address.

=cut

sub power_reset {
	my $self = shift;
	return _guarded($self, 'power_reset', undef, sub { return $self->_power('power_reset') });
}

##############################################################################

=head1 PRIVATE METHODS

=cut

#/////////////////////////////////////////////////////////////////////////////

=head2 _guarded

 Parameters  : $self, $call, $failure, $code
 Returns     : what $code returns, or $failure if it dies
 Description : The wall around every public subroutine. run_command of vcld can
               leave an alarm armed, which would end the process in the middle of
               a wait: it is switched off before and after.

=cut

sub _guarded {
	my ($self, $call, $failure, $code) = @_;
	alarm(0);
	local ($@, $!, $?);
	local $SIG{__DIE__} = 'DEFAULT';
	my $result;
	return $result if eval {
		die "it was called as a function, it must be called as an object method\n" if !ref($self) || !$self->isa('VCL::Module');
		$result = $code->();
		alarm(0);
		1;
	};
	my $error = plain("$@");
	alarm(0);
	my $computer_name = eval { $self->data->get_computer_short_name(0) };
	# That somebody has deleted a reservation is nothing to be warned about.
	my $level = $error =~ /^cancelled\b/ ? $ERRORS{'OK'} : $ERRORS{'WARNING'};
	eval { notify($level, 0, $call . (defined($computer_name) ? " of $computer_name" : '') . " failed: $error") };
	return $failure;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _ask

 Parameters  : $call, $image_name (optional)
 Returns     : hash reference, the result
 Description : Has the service do something. Dies with the reply's own sentence if
               it was not done, which is also written to the reservation's
               history.

=cut

sub _ask {
	my ($self, $call, $image_name) = @_;
	return _result($self->_converse($call, $image_name));
}

sub _result {
	my ($reply) = @_;
	return $reply->{result} if $reply->{outcome} eq 'ok';
	my ($code, $message) = map { plain($_) } @{$reply->{error}}{qw(code message)};
	die(($code || $reply->{outcome}) . ': ' . ($message || 'the service gives no reason') . "\n");
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _converse

 Parameters  : $call, $image_name (optional)
 Returns     : hash reference { outcome, result, error }
 Description : One conversation on a connection of its own. Between two calls Perl
               is busy elsewhere and could not answer the broker's heartbeats.

=cut

sub _converse {
	my ($self, $call, $image_name) = @_;
	alarm(0);
	my $config = VCL::Module::Provisioning::esxprov::Config::load();
	my $management_node = $config->{management_node};
	$management_node = $self->data->get_management_node_short_name() if !defined($management_node);
	die "the short name of this management node is not known: set [service] management_node in $config->{path}\n" if !$management_node;

	my $reservation_id = $self->data->get_reservation_id();
	my $computer_id    = $self->data->get_computer_id();
	my $request        = for_reservation($call, $self->data, $management_node, $image_name);
	my $conversation   = VCL::Module::Provisioning::esxprov::Conversation->new(
		config          => $config,
		management_node => $management_node,
		loadlog         => sub {
			my ($loadstate, $text) = @_;
			insertloadlog($reservation_id, $computer_id, $loadstate, plain($text));
		},
		note => sub { my ($text) = @_; notify($ERRORS{'DEBUG'},   0, "$call: " . plain($text)) },
		warn => sub { my ($text) = @_; notify($ERRORS{'WARNING'}, 0, "$call: " . plain($text)) },
	);
	# Only what is done for a user who may change his mind. A capture is never thrown away, and vcld calls the rest also
	# while it cleans up after a deleted request.
	my $is_abandoned = $call eq 'load' || $call eq 'retrieve_image' ? sub { return $self->_is_deleted() } : undef;
	my $reply = $conversation->ask($request, $is_abandoned);
	$conversation->close;
	if ($reply->{outcome} ne 'ok' && ($call eq 'load' || $call eq 'capture')) {
		my $message = $reply->{error}{message};
		$message = '' if !defined($message);
		insertloadlog($reservation_id, $computer_id, 'info', plain("$call $reply->{outcome}: $message"));
	}
	return $reply;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _is_deleted

 Parameters  : none
 Returns     : boolean
 Description : Whether the user has deleted the request meanwhile. VCL's
               is_request_deleted also says so when the database does not answer,
               which is no reason to throw a VM away: it must answer.

=cut

sub _is_deleted {
	my ($self) = @_;
	return 0 if !is_request_deleted(scalar($self->data->get_request_id()));
	my @rows = database_select('SELECT 1 AS alive');
	return @rows ? 1 : 0;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _power_state

 Parameters  : none
 Returns     : string: 'on', 'off' or 'suspended'
 Description : Dies if it cannot be told.

=cut

sub _power_state {
	my ($self) = @_;
	my $reply = $self->_converse('power_status');
	return 'off' if ($reply->{error}{code} || '') eq 'vm_not_found';
	my $state = _result($reply)->{state};
	die "the reply does not say whether the VM is on\n" if !defined($state) || $state !~ /\A(?:on|off|suspended)\z/;
	return $state;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _power

 Parameters  : $call
 Returns     : 1
 Description : A power call. With a new address in the reply vcld is told.

=cut

sub _power {
	my ($self, $call) = @_;
	my $result = $self->_ask($call);
	$self->_learn_address($result->{private_ip}) if defined($result->{private_ip});
	return 1;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _learn_address

 Parameters  : $private_ip
 Returns     : 1
 Description : Makes a fresh lease known where vcld looks: the database row, the
               data of this process and its cache of connection targets, which
               would go on with the address of an earlier VM. A lease is exclusive:
               another computer of ours that still has this address has lost it,
               and two rows with one address confuse VCL's look-up by name.

=cut

sub _learn_address {
	my ($self, $private_ip) = @_;
	die "the reply has no private IP address\n" if plain($private_ip) !~ /\A\d{1,3}(?:\.\d{1,3}){3}\z/;
	my $computer_id     = $self->data->get_computer_id();
	my $provisioning_id = $self->data->get_computer_provisioning_id();
	database_execute("UPDATE computer SET privateIPaddress = NULL WHERE privateIPaddress = '$private_ip' AND id != $computer_id"
		. " AND provisioningid = $provisioning_id AND deleted = 0");
	$self->data->set_computer_private_ip_address($private_ip) or die "the private IP address $private_ip could not be stored\n";
	for my $name ($self->_names()) {
		determine_remote_connection_target($name, 1);
	}
	return 1;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _forget_guest

 Parameters  : none
 Returns     : 1
 Description : The VM is gone or about to be: its address, soon somebody else's,
               leaves the database and the caches, and the computer holds no image.

=cut

sub _forget_guest {
	my ($self) = @_;
	my $computer_id = $self->data->get_computer_id();
	$self->data->set_computer_private_ip_address('null');
	my $cache = $ENV->{remote_connection_target};
	delete @{$cache}{$self->_names()} if ref($cache) eq 'HASH';
	update_computer_imagename($computer_id, 'noimage');
	return 1;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _names

 Parameters  : none
 Returns     : array
 Description : The names under which vcld may look for this computer's address.

=cut

sub _names {
	my ($self) = @_;
	my %names = map { $_ => 1 } grep { defined($_) && length($_) } scalar($self->data->get_computer_short_name(0)),
		scalar($self->data->get_computer_node_name(0)), scalar($self->data->get_computer_hostname(0));
	my @names = sort keys %names;
	return @names;
}

#/////////////////////////////////////////////////////////////////////////////

=head2 _learn_vmhost

 Parameters  : $vmhost_id
 Returns     : 1
 Description : Writes down on which VM host the computer runs now, for VCL's pages
               and for the next state process.

=cut

sub _learn_vmhost {
	my ($self, $vmhost_id) = @_;
	return 1 if !defined($vmhost_id) || $vmhost_id !~ /\A[1-9]\d*\z/;
	my $computer_id = $self->data->get_computer_id();
	my $before      = $self->data->get_computer_vmhost_id(0);
	return 1 if defined($before) && $before eq $vmhost_id;
	update_computer_vmhost_id($computer_id, $vmhost_id)
		or die "computer.vmhostid of computer $computer_id could not be set to $vmhost_id\n";
	return 1;
}

##############################################################################
1;
__END__

=head1 SEE ALSO

The README of esxprov; bridge/contract.py for the calls, bridge/examples for the
messages.

=cut
