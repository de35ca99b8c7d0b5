package VCL::Module::Provisioning::esxprov::Amqp;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Amqp - a small blocking AMQP 0-9-1 client

=head1 DESCRIPTION

Core Perl only (IO::Socket::SSL for amqps). One connection, one channel, every
publish mandatory and confirmed. It lives inside a vcld state process, so:

 * every wait has a deadline and survives EINTR (vcld's SIGCHLD handler);
 * no alarm, no fork, no signal handler is touched; SIGPIPE cannot happen;
 * heartbeats are sent and checked while waiting, and only then: Perl cannot do it
   while it is busy elsewhere. A connection is meant for one call of the shim.

Deadlines are points of the monotonic clock, see now(). Every failure is an
exception of the class VCL::Module::Provisioning::esxprov::Amqp::Error; the
connection is closed then.

=cut

use strict;
use warnings;

use Errno qw(EINTR EAGAIN EWOULDBLOCK EINPROGRESS);
use IO::Socket::IP ();
use Socket qw(IPPROTO_TCP TCP_NODELAY SOCK_STREAM);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our $VERSION = '0.1';

my $HEARTBEAT_S   = 30;
my $FRAME_MAX     = 131072;
my $BODY_MAX      = 16 * 1024 * 1024;    # a reply has 256 KiB; a peer that announces more is not to be believed
my $CHANNEL       = 1;
my $CONSUMER_TAG  = 'vcl';

my %FRAME  = (method => 1, header => 2, body => 3, heartbeat => 8);
my $END    = 0xCE;

# class.method numbers of AMQP 0-9-1 (and RabbitMQ's confirm class), as far as they are used here
my %METHOD = (
	'connection.start' => [10, 10], 'connection.start-ok'  => [10, 11], 'connection.tune' => [10, 30],
	'connection.tune-ok' => [10, 31], 'connection.open'    => [10, 40], 'connection.open-ok' => [10, 41],
	'connection.close' => [10, 50], 'connection.close-ok'  => [10, 51], 'connection.blocked' => [10, 60],
	'connection.unblocked' => [10, 61],
	'channel.open'     => [20, 10], 'channel.open-ok'      => [20, 11], 'channel.flow' => [20, 20],
	'channel.flow-ok'  => [20, 21], 'channel.close'        => [20, 40], 'channel.close-ok' => [20, 41],
	'queue.declare'    => [50, 10], 'queue.declare-ok'     => [50, 11],
	'basic.consume'    => [60, 20], 'basic.consume-ok'     => [60, 21], 'basic.cancel' => [60, 30],
	'basic.publish'    => [60, 40], 'basic.return'         => [60, 50], 'basic.deliver' => [60, 60],
	'basic.ack'        => [60, 80], 'basic.nack'           => [60, 120],
	'confirm.select'   => [85, 10], 'confirm.select-ok'    => [85, 11],
);
my %NAME = map { join('.', @{$METHOD{$_}}) => $_ } keys %METHOD;

# properties of basic, in the order of the specification: [name, flag, type]
my @PROPERTIES = (
	['content_type', 0x8000, 's'], ['delivery_mode', 0x1000, 'C'], ['correlation_id', 0x0400, 's'], ['reply_to', 0x0200, 's'],
	['message_id', 0x0080, 's'], ['timestamp', 0x0040, 'Q>'], ['type', 0x0020, 's'], ['user_id', 0x0010, 's'],
);

#//////////////////////////////////////////////////////////////////////////////

=head2 now

 Parameters  : none
 Returns     : seconds
 Description : The clock of all deadlines: it does not jump when somebody sets the
               time.

=cut

sub now { return clock_gettime(CLOCK_MONOTONIC) }

#//////////////////////////////////////////////////////////////////////////////

=head2 connect

 Parameters  : $settings (host, port, user, password, vhost, tls, ca_file), $deadline
 Returns     : object
 Description : Opens connection and channel and switches confirms on. With tls the
               broker's certificate must be valid for 'host' and signed by ca_file
               (without one: by the system's authorities).

=cut

sub connect {
	my ($class, $settings, $deadline) = @_;
	my $self = bless {
		at         => "$settings->{host}:$settings->{port}",
		user       => $settings->{user},
		input      => '',
		deliveries => [],
		published  => 0,
		last_in    => now(),
		last_out   => now(),
		heartbeat  => 0,
		frame_max  => $FRAME_MAX,
	}, $class;
	my $heartbeat = $settings->{heartbeat} || $HEARTBEAT_S;
	$self->{socket} = $self->_open_socket($settings, $deadline);
	$self->_start_tls($settings, $deadline) if $settings->{tls};

	$self->_write("AMQP\0\0\x09\x01", $deadline);
	$self->_expect('connection.start', $deadline);
	my $capabilities = _table(publisher_confirms => \1, 'basic.nack' => \1, consumer_cancel_notify => \1,
		'connection.blocked' => \1, authentication_failure_close => \1);
	my $about = _table(product => 'esxprov shim for vcld', version => $VERSION, platform => "Perl $]", capabilities => [$capabilities]);
	my $login = _short('PLAIN') . _long("\0$settings->{user}\0$settings->{password}");
	$self->_send('connection.start-ok', $about . $login . _short('en_US'), $deadline);
	my ($channel_max, $frame_max, $proposed) = $self->_unpack('nNn', $self->_expect('connection.tune', $deadline));
	$self->{frame_max} = $frame_max if $frame_max && $frame_max < $FRAME_MAX;
	$self->_fail('protocol', "offers frames of $frame_max bytes, AMQP has at least 4096") if $self->{frame_max} < 4096;
	$heartbeat = $proposed if $proposed && $proposed < $heartbeat;
	$self->_send('connection.tune-ok', pack('nNn', $CHANNEL, $self->{frame_max}, $heartbeat), $deadline);
	$self->_send('connection.open', _short($settings->{vhost}) . _short('') . "\0", $deadline);
	$self->_expect('connection.open-ok', $deadline);
	$self->{heartbeat} = $heartbeat;
	$self->_send('channel.open', _short(''), $deadline);
	$self->_expect('channel.open-ok', $deadline);
	$self->_send('confirm.select', "\0", $deadline);
	$self->_expect('confirm.select-ok', $deadline);
	return $self;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 declare_queue

 Parameters  : $name, \%arguments (whole numbers), $deadline
 Returns     : true
 Description : Declares a durable queue.

=cut

sub declare_queue {
	my ($self, $name, $arguments, $deadline) = @_;
	$self->_send('queue.declare', pack('n', 0) . _short($name) . "\x02" . _table(%$arguments), $deadline);
	$self->_expect('queue.declare-ok', $deadline);
	return 1;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 consume

 Parameters  : $queue, $deadline
 Returns     : true
 Description : Starts a consumer without acknowledgements: what is lost with this
               process is sent again when the event is published again.

=cut

sub consume {
	my ($self, $queue, $deadline) = @_;
	$self->_send('basic.consume', pack('n', 0) . _short($queue) . _short($CONSUMER_TAG) . "\x02" . _table(), $deadline);
	$self->_expect('basic.consume-ok', $deadline);
	return 1;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 publish

 Parameters  : $exchange, $routing_key, $octets, \%properties, $deadline
 Returns     : true
 Description : Publishes and waits for the broker's confirm. An exception of kind
               'unroutable' says that no queue takes the message. user_id is set.

=cut

sub publish {
	my ($self, $exchange, $routing_key, $octets, $properties, $deadline) = @_;
	my $body = $octets;
	utf8::downgrade($body, 1) or die "the body of a message must be octets: encode it first\n";
	my ($flags, $values) = (0, '');
	for my $property (@PROPERTIES) {
		my ($name, $flag, $type) = @$property;
		my $value = $name eq 'user_id' ? $self->{user} : $properties->{$name};
		next if !defined($value);
		$flags |= $flag;
		$values .= $type eq 's' ? _short($value) : pack($type, $value);
	}
	my $frames = _method_frame('basic.publish', pack('n', 0) . _short($exchange) . _short($routing_key) . "\x01")
		. _frame('header', pack('nnQ>n', 60, 0, length($body), $flags) . $values);
	my $most = $self->{frame_max} - 8;
	for (my $offset = 0; $offset < length($body); $offset += $most) {
		$frames .= _frame('body', substr($body, $offset, $most));
	}
	my $tag = ++$self->{published};
	$self->_write($frames, $deadline);

	my $returned;
	while (1) {
		my ($name, $arguments) = $self->_next_method($deadline);
		if (!defined($name)) {
			my $why = defined($self->{blocked}) ? ": it blocks publishers ($self->{blocked})" : '';
			$self->_fail('lost', "did not confirm a message in time$why");
		}
		elsif ($name eq 'basic.deliver') {
			next;
		}
		elsif ($name eq 'basic.return') {
			$returned = join(' ', $self->_unpack('nC/a', $arguments));
		}
		elsif ($name eq 'basic.ack' || $name eq 'basic.nack') {
			my ($confirmed, $flag) = $self->_unpack('Q>C', $arguments);
			next if $confirmed != $tag && !($confirmed > $tag && $flag & 1);
			$self->_fail('lost', 'refused to take a message (basic.nack)') if $name eq 'basic.nack';
			$self->_fail('unroutable', "has no queue for $routing_key ($returned)") if defined($returned);
			return 1;
		}
		else {
			$self->_unexpected($name, 'basic.ack');
		}
	}
}

#//////////////////////////////////////////////////////////////////////////////

=head2 next_delivery

 Parameters  : $deadline
 Returns     : string of octets, undefined at the deadline
 Description : The body of the next message for our consumer.

=cut

sub next_delivery {
	my ($self, $deadline) = @_;
	while (!@{$self->{deliveries}}) {
		my ($name) = $self->_next_method($deadline);
		return if !defined($name);
		$self->_unexpected($name, 'basic.deliver') if $name ne 'basic.deliver';
	}
	return shift @{$self->{deliveries}};
}

#//////////////////////////////////////////////////////////////////////////////

=head2 close

 Parameters  : none
 Returns     : true
 Description : Ends the connection politely; never dies.

=cut

sub close {
	my ($self) = @_;
	return 1 if !$self->{socket};
	my $deadline = now() + 2;
	local $@;
	eval {
		local $SIG{__DIE__} = 'DEFAULT';
		$self->_send('connection.close', pack('n', 200) . _short('done') . pack('nn', 0, 0), $deadline);
		1 while ($self->_next_method($deadline) || 'connection.close-ok') ne 'connection.close-ok';
		1;
	} or $self->_drop;
	$self->_drop;
	return 1;
}

# --- methods ------------------------------------------------------------------

sub _send {
	my ($self, $name, $arguments, $deadline) = @_;
	return $self->_write(_method_frame($name, $arguments), $deadline);
}

sub _expect {
	my ($self, $wanted, $deadline) = @_;
	while (1) {
		my ($name, $arguments) = $self->_next_method($deadline);
		$self->_fail('lost', "did not answer in time (waiting for $wanted)") if !defined($name);
		return $arguments if $name eq $wanted;
		$self->_unexpected($name, $wanted) if $name ne 'basic.deliver';
	}
}

sub _unexpected {
	my ($self, $name, $wanted) = @_;
	return $self->_fail('protocol', "sent $name where $wanted was expected");
}

# Name and arguments of the next method, nothing at the deadline. Of what may come at any time, a delivery is kept
# aside and an end is an exception.
sub _next_method {
	my ($self, $deadline) = @_;
	while (1) {
		my $payload = $self->_next_frame('method', $deadline);
		return if !defined($payload);
		my ($class, $id) = $self->_unpack('nn', $payload);
		my $name      = $NAME{"$class.$id"} || "method $class.$id";
		my $arguments = substr($payload, 4);
		if ($name eq 'connection.close' || $name eq 'channel.close') {
			$self->_closed_by_broker($name, $arguments);
		}
		elsif ($name eq 'basic.cancel') {
			$self->_fail('lost', 'cancelled our consumer: the reply queue is gone');
		}
		elsif ($name eq 'channel.flow') {
			$self->_send('channel.flow-ok', substr($arguments, 0, 1), now() + 5);
		}
		elsif ($name eq 'connection.blocked') {
			($self->{blocked}) = $self->_unpack('C/a', $arguments);
		}
		elsif ($name eq 'connection.unblocked') {
			delete $self->{blocked};
		}
		else {
			my $content = $name eq 'basic.deliver' || $name eq 'basic.return' ? $self->_content : undef;
			push @{$self->{deliveries}}, $content if $name eq 'basic.deliver';
			return ($name, $arguments);
		}
	}
}

# The body that follows a basic.deliver or basic.return. The properties are not read: the envelope says it all.
sub _content {
	my ($self) = @_;
	my $deadline = now() + 30;
	my $header   = $self->_next_frame('header', $deadline);
	$self->_fail('lost', 'stopped in the middle of a message') if !defined($header);
	my (undef, undef, $size) = $self->_unpack('nnQ>', $header);
	$self->_fail('protocol', "announces a message of $size bytes") if $size > $BODY_MAX;
	my $body = '';
	while (length($body) < $size) {
		my $part = $self->_next_frame('body', $deadline);
		$self->_fail('lost', 'stopped in the middle of a message') if !defined($part);
		$body .= $part;
	}
	$self->_fail('protocol', 'sent a longer message than it announced') if length($body) > $size;
	return $body;
}

sub _closed_by_broker {
	my ($self, $name, $arguments) = @_;
	my ($code, $text) = $self->_unpack('nC/a', $arguments);
	local $@;
	eval {
		local $SIG{__DIE__} = 'DEFAULT';
		$self->_send("$name-ok", '', now() + 2) if $name eq 'connection.close';
		1;
	} or $self->_drop;
	# 403 wrong password or no permission, 404 no such exchange, 406 a queue with other arguments, 530 no such vhost:
	# nothing that trying again would change. The rest (320: an operator closed the connection) passes.
	my $kind = $code =~ /^(?:402|403|404|405|406|530)$/ ? 'refused' : 'lost';
	return $self->_fail($kind, "closed the connection: $code $text", $code);
}

# --- frames -------------------------------------------------------------------

sub _frame {
	my ($type, $payload) = @_;
	return pack('CnN/a*C', $FRAME{$type}, $type eq 'heartbeat' ? 0 : $CHANNEL, $payload, $END);
}

sub _method_frame {
	my ($name, $arguments) = @_;
	my $channel = $name =~ /^connection\./ ? 0 : $CHANNEL;
	return pack('CnN/a*C', $FRAME{method}, $channel, pack('nn', @{$METHOD{$name}}) . $arguments, $END);
}

# The payload of the next frame, which must be of this type; nothing at the deadline. Half a frame stays in the buffer.
sub _next_frame {
	my ($self, $wanted, $deadline) = @_;
	while (1) {
		if (length($self->{input}) >= 7) {
			my ($type, undef, $size) = unpack('CnN', $self->{input});
			$self->_fail('protocol', "sent a frame of unknown type $type") if !grep { $_ == $type } values %FRAME;
			$self->_fail('protocol', "sent a frame of $size bytes, $self->{frame_max} are allowed") if $size > $self->{frame_max} - 8;
			if (length($self->{input}) >= $size + 8) {
				my $frame = substr($self->{input}, 0, $size + 8, '');
				$self->_fail('protocol', 'sent a frame without an end') if ord(substr($frame, -1)) != $END;
				next if $type == $FRAME{heartbeat};
				$self->_fail('protocol', "sent a frame of type $type where a $wanted was expected") if $type != $FRAME{$wanted};
				return substr($frame, 7, $size);
			}
		}
		return if !$self->_fill($deadline);
	}
}

sub _short { my ($text) = @_; return pack('C/a*', $text) }
sub _long  { my ($text) = @_; return pack('N/a*', $text) }

# A field table: whole numbers, text, \1 for true, [$table] for a nested table that is encoded already.
sub _table {
	my (%fields) = @_;
	my $table = '';
	for my $name (sort keys %fields) {
		my $value = $fields{$name};
		$table .= _short($name);
		if    (ref($value) eq 'ARRAY')   { $table .= "F$value->[0]" }
		elsif (ref($value))              { $table .= 't' . chr(${$value}) }
		elsif ($value =~ /\A\d+\z/)     { $table .= 'l' . pack('q>', $value) }
		else                             { $table .= 'S' . _long($value) }
	}
	return _long($table);
}

# unpack() of what the peer has sent: too short a payload is a protocol error, not a warning about undefined values
sub _unpack {
	my ($self, $template, $octets) = @_;
	my @values = eval { local $SIG{__DIE__} = 'DEFAULT'; unpack($template, $octets) };
	my $wanted = () = $template =~ /(?:C\/a|Q>|[nNC])/g;
	$self->_fail('protocol', 'sent a method that is cut off') if @values < $wanted;
	return @values;
}

# --- socket -------------------------------------------------------------------

sub _open_socket {
	my ($self, $settings, $deadline) = @_;
	my $socket = IO::Socket::IP->new(PeerHost => $settings->{host}, PeerPort => $settings->{port}, Type => SOCK_STREAM, Blocking => 0);
	$self->_fail('lost', 'cannot be reached: ' . ($@ || $!)) if !$socket;
	# A name may have several addresses: connect() goes on to the next one each time an attempt has failed.
	while (!$socket->connect) {
		$self->_fail('lost', "cannot be reached: $!") if $! != EINPROGRESS && $! != EWOULDBLOCK;
		$self->_fail('lost', 'does not answer') if !_select($socket, 'write', $deadline - now());
	}
	setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
	return $socket;
}

sub _start_tls {
	my ($self, $settings, $deadline) = @_;
	my $socket = $self->{socket};
	local $@;
	# It has no 'use warnings' and warns of a peer that has gone already where vcld's $^W reaches it.
	local $^W = 0;
	local $SIG{PIPE} = 'IGNORE';
	eval { local $SIG{__DIE__} = 'DEFAULT'; require IO::Socket::SSL; 1 }
		or $self->_fail('refused', 'needs TLS: install IO::Socket::SSL (libio-socket-ssl-perl, perl-IO-Socket-SSL)');
	my %trust = defined($settings->{ca_file}) ? (SSL_ca_file => $settings->{ca_file}) : ();
	IO::Socket::SSL->start_SSL($socket, SSL_startHandshake => 0, SSL_hostname => $settings->{host}, SSL_verifycn_name => $settings->{host},
		SSL_verifycn_scheme => 'default', SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_PEER(), %trust)
		or $self->_fail('refused', 'cannot be spoken to with TLS: ' . IO::Socket::SSL::errstr());
	while (!$socket->connect_SSL) {
		my $error = IO::Socket::SSL::errstr();
		my $way = $error == IO::Socket::SSL::SSL_WANT_READ() ? 'read' : $error == IO::Socket::SSL::SSL_WANT_WRITE() ? 'write' : undef;
		$self->_fail($error =~ /verify|certificate|hostname/i ? 'refused' : 'lost', "TLS: $error") if !defined($way);
		$self->_fail('lost', 'does not finish the TLS handshake') if !_select($socket, $way, $deadline - now());
	}
	$self->{tls} = 1;
	return;
}

# One wait for readability or writability. 1 ready or interrupted (look again), 0 after the time.
sub _select {
	my ($socket, $way, $seconds) = @_;
	return 0 if $seconds <= 0;
	my $bits = '';
	vec($bits, fileno($socket), 1) = 1;
	my $ready = $way eq 'read' ? select($bits, undef, undef, $seconds) : select(undef, $bits, undef, $seconds);
	return $ready == 0 ? 0 : 1;
}

# Reads what there is; waits for it until the deadline. 1 something was read, 0 nothing came in time.
sub _fill {
	my ($self, $deadline) = @_;
	while (1) {
		my $socket = $self->{socket} or $self->_fail('lost', 'is not connected');
		local $SIG{PIPE} = 'IGNORE';    # TLS also writes when it reads: an alert, a new key
		$! = 0;    # IO::Socket::SSL sets EWOULDBLOCK only where no older error stands
		my $read = sysread($socket, $self->{input}, 65536, length($self->{input}));
		if ($read) {
			$self->{last_in} = now();
			return 1;
		}
		$self->_fail('lost', 'closed the connection without a word') if defined($read);
		$self->_fail('lost', 'broke off: ' . $self->_socket_error) if $! != EINTR && $! != EAGAIN && $! != EWOULDBLOCK;
		my $wait = $deadline - now();
		return 0 if $wait <= 0;
		# Only now, with nothing left to read, does silence mean something: this process may have been busy elsewhere.
		$wait = $self->_keep_alive($wait);
		_select($socket, 'read', $wait);
	}
}

# Sends a heartbeat when one is due, and how long at most to wait until the next look.
sub _keep_alive {
	my ($self, $wait) = @_;
	my $heartbeat = $self->{heartbeat} or return $wait;
	$self->_fail('lost', "was silent for two heartbeats of $heartbeat s") if now() - $self->{last_in} > 2 * $heartbeat;
	$self->_write(_frame('heartbeat', ''), now() + 5) if now() - $self->{last_out} >= $heartbeat / 2;
	return $wait < $heartbeat / 4 ? $wait : $heartbeat / 4;
}

sub _write {
	my ($self, $octets, $deadline) = @_;
	my $offset = 0;
	while ($offset < length($octets)) {
		my $socket = $self->{socket} or $self->_fail('lost', 'is not connected');
		local $SIG{PIPE} = 'IGNORE';
		$! = 0;
		my $written = syswrite($socket, $octets, length($octets) - $offset, $offset);
		if (defined($written)) {
			$offset += $written;
			next;
		}
		next if $! == EINTR;
		$self->_fail('lost', 'broke off: ' . $self->_socket_error) if $! != EAGAIN && $! != EWOULDBLOCK;
		_select($socket, 'write', $deadline - now()) or $self->_fail('lost', 'takes no data');
	}
	$self->{last_out} = now();
	return 1;
}

sub _socket_error {
	my ($self) = @_;
	return $! ? "$!" : $self->{tls} ? 'TLS: ' . IO::Socket::SSL::errstr() : 'for no known reason';
}

sub _drop {
	my ($self) = @_;
	my $socket = delete $self->{socket};
	CORE::close($socket) if $socket;
	return;
}

# Every failure goes through here; kind is lost (may pass), refused (will not pass by itself), unroutable or protocol.
sub _fail {
	my ($self, $kind, $why, $code) = @_;
	$self->_drop;
	die VCL::Module::Provisioning::esxprov::Amqp::Error->new($kind, "the broker at $self->{at} $why", $code);
}

package VCL::Module::Provisioning::esxprov::Amqp::Error;

use strict;
use warnings;

use overload '""' => sub { return $_[0]->{text} }, fallback => 1;

sub new {
	my ($class, $kind, $text, $code) = @_;
	return bless {kind => $kind, text => $text, code => defined($code) ? $code : 0}, $class;
}

sub kind { my ($self) = @_; return $self->{kind} }
sub code { my ($self) = @_; return $self->{code} }

1;
