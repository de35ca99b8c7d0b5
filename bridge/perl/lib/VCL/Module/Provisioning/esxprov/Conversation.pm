package VCL::Module::Provisioning::esxprov::Conversation;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Conversation - one call, from request to reply

=head1 DESCRIPTION

Publishes an event and follows it to its one final reply: keeps the event in the
spool, passes progress on, asks again after silence, reconnects after a loss with
the same event id, gives up after the deadline, cancels what nobody wants any
more. Knows neither vcld nor its database: those are the callbacks of new().

=cut

use strict;
use warnings;

use Time::HiRes ();

use VCL::Module::Provisioning::esxprov::Amqp;
use VCL::Module::Provisioning::esxprov::Contract qw(%CALLS %LOADSTATES $EXCHANGE $CONTENT_TYPE $SILENCE_S $GRACE_S
	$REPLY_EXPIRES_MS $REPLY_MAX_LENGTH routing_key reply_queue);
use VCL::Module::Provisioning::esxprov::Envelope qw(request encode decode call_of finished_data remaining_s plain);
use VCL::Module::Provisioning::esxprov::Spool;

our $VERSION = '0.1';

# Seconds; tests set shorter ones.
our %TIMING = (
	silence  => $SILENCE_S,
	grace    => $GRACE_S,
	connect  => 10,     # for one attempt to connect, and for a confirm
	patience => 30,     # a broker that was never reached is tried so long: a restart takes 15 s
	backoff  => 30,     # the longest pause between two attempts
	wanted   => 5,      # between two looks whether the user still wants it
	info     => 180,    # a loadlog row at least so often: cluster parents give up after 30 min without one
	percent  => 60,     # between two rows of a step that tells how far it is
	farewell => 30,     # for the reply to a cancel
);

#//////////////////////////////////////////////////////////////////////////////

=head2 new

 Parameters  : %arguments: config (see Config::load), management_node and the
               callbacks
               loadlog => sub { my ($loadstate, $text) = @_ }
               note    => sub { my ($text) = @_ }    for vcld's log
               warn    => sub { my ($text) = @_ }    the same, as a WARNING
 Returns     : object
 Description : Nothing is connected yet.

=cut

sub new {
	my ($class, %arguments) = @_;
	return bless {
		%arguments,
		spool => VCL::Module::Provisioning::esxprov::Spool->new($arguments{config}{spool}),
	}, $class;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 ask

 Parameters  : $request, $is_abandoned (optional code reference)
 Returns     : hash reference { outcome, result, error }
 Description : Publishes the request and waits for its final reply. $is_abandoned
               is called every few seconds; when it says true the work is
               cancelled. Dies with one sentence if no reply can be had.

=cut

sub ask {
	my ($self, $request, $is_abandoned) = @_;
	my ($call) = call_of($request);
	my $is_command = $CALLS{$call}{kind} eq 'command';
	my $envelope   = $is_command ? $self->_kept($request) : $request;
	my ($reply, $error);
	{
		local $@;
		$reply = eval { local $SIG{__DIE__} = 'DEFAULT'; $self->_follow($call, $envelope, $is_abandoned) };
		$error = $@;
	}
	# Not reached if this process is killed: then the file stays, and the next process goes on with it.
	$self->{spool}->forget($envelope) if $is_command;
	die plain("$error") . "\n" if !defined($reply);
	return $reply;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 close

 Parameters  : none
 Returns     : true
 Description : Ends the connection. A conversation may be used again afterwards.

=cut

sub close {
	my ($self) = @_;
	my $amqp = delete $self->{amqp};
	$amqp->close if $amqp;
	return 1;
}

# The envelope to publish: the one that a killed process has left for the same work, else this one, stored.
sub _kept {
	my ($self, $request) = @_;
	my $left = $self->{spool}->find($request);
	if ($left) {
		$self->{note}->("going on with event $left->{id}, which a process that was killed has left");
		return $left;
	}
	my $stored = eval { local $SIG{__DIE__} = 'DEFAULT'; $self->{spool}->store($request) };
	# Worth a warning, not a failed reservation: all that is lost is that a killed process's work could be taken up again.
	$self->{warn}->("going on without keeping event $request->{id}: $@") if !$stored;
	return $request;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 _follow

 Parameters  : $call, $envelope, $is_abandoned
 Returns     : hash reference { outcome, result, error }
 Description : The loop behind ask(). 'publish_at' is when the event is published
               (again): at once, after silence, and some time after a loss.

=cut

sub _follow {
	my ($self, $call, $envelope, $is_abandoned) = @_;
	my $now   = _now();
	my $state = {
		call       => $call,
		envelope   => $envelope,
		deadline   => $now + remaining_s($envelope) + $TIMING{grace},
		patience   => $now + $TIMING{patience},
		publish_at => $now,
		row_at     => $now + $TIMING{info},
		look_at    => $is_abandoned ? $now + $TIMING{wanted} : undef,
		pause      => 1,
		loadstate  => '',
	};
	while (1) {
		$now = _now();
		$self->_give_up($state) if $now >= $state->{deadline};
		if (defined($state->{look_at}) && $now >= $state->{look_at}) {
			my $abandoned = $is_abandoned->();
			$state->{look_at} = _now() + $TIMING{wanted};
			$self->_cancel($state, 'the user deleted the reservation') if $abandoned;
		}
		$self->_row($state, 'info', $state->{message}) if $now >= $state->{row_at};
		$self->_try_to_publish($state) if $now >= $state->{publish_at};

		my $octets = $self->_next_message($state, _least(grep { defined($_) } @$state{qw(deadline publish_at row_at look_at)}));
		my $reply = defined($octets) ? $self->_read($state, $octets) : undef;
		return $reply if $reply;
	}
}

# Publishes the event, or its cancel once it is abandoned, connecting first where needed. A lost broker is tried again
# with growing pauses: until the deadline if the event may be at work already, else only for a while. Dies if it is
# refused.
sub _try_to_publish {
	my ($self, $state) = @_;
	local $@;
	my ($call, $envelope) = $state->{cancel} ? ('cancel', $state->{cancel}) : @$state{qw(call envelope)};
	if (eval { local $SIG{__DIE__} = 'DEFAULT'; $self->_publish($call, $envelope, $state); 1 }) {
		$state->{publish_at} = _now() + $TIMING{silence};
		return 1;
	}
	my $error = $@;
	my $kind = _kind($error);
	# Once it was sent there was a broker, and once it was accepted access was fine: what is garbled or refused after that
	# comes from a proxy or a broker that is still starting.
	my $passes = $kind eq 'lost' || ($kind eq 'protocol' && $state->{sent}) || ($kind eq 'refused' && $state->{accepted});
	my $until  = $state->{sent} ? $state->{deadline} : $state->{patience};
	if (!$passes || (!$state->{cancelled} && _now() + $state->{pause} >= $until)) {
		$self->close;
		die _explain($self->{management_node}, $error) . "\n";
	}
	$self->_lost($state, $error);
	return 1;
}

sub _lost {
	my ($self, $state, $error) = @_;
	$self->close;
	$self->{note}->("$error (next attempt in $state->{pause} s)");
	$state->{publish_at} = _now() + $state->{pause};
	$state->{pause} = _least(2 * $state->{pause}, $TIMING{backoff});
	return;
}

# One message, or nothing: it is time for something else, or the connection is lost.
sub _next_message {
	my ($self, $state, $until) = @_;
	if (!$self->{amqp}) {
		my $left = $until - _now();
		Time::HiRes::sleep($left) if $left > 0;
		return;
	}
	local $@;
	my $octets;
	return $octets if eval { local $SIG{__DIE__} = 'DEFAULT'; $octets = $self->{amqp}->next_delivery($until); 1 };
	$self->_lost($state, $@);
	return;
}

sub _publish {
	my ($self, $call, $envelope, $state) = @_;
	my $deadline = _now() + $TIMING{connect};
	my $data     = $envelope->{data};
	my $queue    = reply_queue($self->{management_node}, $state->{envelope}{data}{reservation}{reservation_id});
	if (!$self->{amqp}) {
		my $amqp = VCL::Module::Provisioning::esxprov::Amqp->connect($self->{config}, $deadline);
		$amqp->declare_queue($queue, {'x-expires' => $REPLY_EXPIRES_MS, 'x-max-length' => $REPLY_MAX_LENGTH}, $deadline);
		$amqp->consume($queue, $deadline);
		$self->{amqp} = $amqp;
	}
	$state->{sent} = 1;
	$self->{amqp}->publish($EXCHANGE, routing_key($self->{management_node}, $call),
		encode($envelope), {
			content_type   => $CONTENT_TYPE,
			delivery_mode  => 2,
			message_id     => $envelope->{id},
			correlation_id => $envelope->{id},
			type           => $envelope->{type},
			reply_to       => $queue,
			timestamp      => time(),
		}, $deadline);
	$state->{accepted} = 1;
	return 1;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 _read

 Parameters  : $state, $octets
 Returns     : hash reference { outcome, result, error } for the final reply,
               otherwise nothing
 Description : Takes one message in. What is not about this event is the late
               reply to an earlier one and is dropped.

=cut

sub _read {
	my ($self, $state, $octets) = @_;
	local $@;
	my $message = eval { local $SIG{__DIE__} = 'DEFAULT'; decode($octets) };
	if (!$message) {
		$self->{note}->("dropping a message that is not one of ours: $@");
		return;
	}
	return if !defined($message->{causationid}) || $message->{causationid} ne $state->{envelope}{id};
	@$state{qw(publish_at pause)} = (_now() + $TIMING{silence}, 1);
	my (undef, $phase) = call_of($message);
	return finished_data($message) if $phase eq 'finished';
	return if $phase ne 'progressed';

	my ($loadstate, $text, $percent) = @{$message->{data}}{qw(loadstate message percent)};
	my $is_further = $self->_hear($state, $text, $percent);
	if (defined($loadstate)) {
		$loadstate = 'info' if !$LOADSTATES{$loadstate};
		my $is_new = $loadstate ne $state->{loadstate};
		$state->{loadstate} = $loadstate;
		return $self->_row($state, $loadstate, $state->{message}) if $is_new;
	}
	$self->_row($state, 'info', $state->{message}) if $is_further;
	return;
}

# Takes in what a note says. True if that is worth a row of its own: another quarter of a long step is done, or some of
# it and the last row is some time ago.
sub _hear {
	my ($self, $state, $text, $percent) = @_;
	return 0 if !defined($text);
	@$state{qw(about percent quarter)} = ($text, undef, 0) if !defined($state->{about}) || $state->{about} ne $text;
	my $is_more = defined($percent) && $percent =~ /\A\d{1,3}\z/ && (!defined($state->{percent}) || $percent > $state->{percent});
	$state->{percent} = $percent if $is_more;
	$state->{message} = $text . (defined($state->{percent}) ? ", $state->{percent} %" : '');
	return 0 if !$is_more;
	my $quarter    = int($percent / 25);
	my $is_quarter = $quarter > $state->{quarter};
	$state->{quarter} = $quarter;
	return $is_quarter || _now() >= $state->{row_at} - $TIMING{info} + $TIMING{percent};
}

sub _row {
	my ($self, $state, $loadstate, $text) = @_;
	$state->{row_at} = _now() + $TIMING{info};
	return if $CALLS{$state->{call}}{lane} ne 'slow';
	$self->{loadlog}->($loadstate, defined($text) ? $text : "waiting for the esxprov service ($state->{call})");
	return;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 _cancel

 Parameters  : $state, $reason
 Returns     : true
 Description : Asks the service to stop, and leaves it a little time to say so.

=cut

sub _cancel {
	my ($self, $state, $reason) = @_;
	$self->{note}->("cancelling $state->{call}: $reason");
	@$state{qw(cancelled look_at)} = ($reason, undef);
	$state->{deadline} = _least($state->{deadline}, _now() + $TIMING{farewell});
	my $about  = $state->{envelope};
	my $cancel = request('cancel', {event => $about->{id}, reason => $reason},
		map { $_ => $about->{$_} } grep { defined($about->{$_}) } qw(source subject correlationid partitionkey));
	$state->{cancel} = $cancel;
	local $@;
	eval { local $SIG{__DIE__} = 'DEFAULT'; $self->_publish('cancel', $cancel, $state); 1 }
		or $self->_lost($state, "the cancel was not sent: $@");
	return 1;
}

sub _give_up {
	my ($self, $state) = @_;
	die "cancelled, because $state->{cancelled}; the service has not confirmed it yet\n" if $state->{cancelled};
	$self->_cancel($state, 'the deadline is over') if $CALLS{$state->{call}}{kind} eq 'command';
	die 'the esxprov service did not finish in time '
		. (defined($state->{message}) ? "(its last word: $state->{message})" : 'and never said a word: see journalctl -u esxprov') . "\n";
}

# --- small things ---------------------------------------------------------------

sub _kind { my ($error) = @_; return ref($error) && $error->can('kind') ? $error->kind : 'broken' }

# An exception in the words of an administrator.
sub _explain {
	my ($management_node, $error) = @_;
	my $kind = _kind($error);
	my $code = $kind eq 'broken' ? 0 : $error->code;
	my $remedy = 'start it with systemctl start esxprov';
	return "no esxprov service is listening for management node $management_node: $remedy" if $kind eq 'unroutable';
	return "no esxprov service has declared the exchange '$EXCHANGE' on this broker: $remedy" if $code == 404;
	my $said = plain("$error");
	$said .= '; check that RabbitMQ runs there, and [vcld] url in esxprov.conf' if $said =~ /cannot be reached/;
	return $said;
}

sub _now { return VCL::Module::Provisioning::esxprov::Amqp::now() }

sub _least { my ($least, @rest) = @_; for (@rest) { $least = $_ if $_ < $least } return $least }

1;
