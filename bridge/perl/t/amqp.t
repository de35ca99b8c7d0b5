#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The AMQP client against peers that are silent, cut off, corrupt or slow. The real broker has its own tests.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use File::Temp ();
use IO::Socket::IP ();
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(time sleep alarm);

use VCL::Module::Provisioning::esxprov::Amqp;

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $^W = 1;
my $AMQP = 'VCL::Module::Provisioning::esxprov::Amqp';

sub frame  { my ($type, $channel, $payload) = @_; return pack('CnN/a*C', $type, $channel, $payload, 0xCE) }
sub method { my ($channel, $class, $id, $arguments) = @_; return frame(1, $channel, pack('nn', $class, $id) . $arguments) }

my $START    = method(0, 10, 10, "\0\x09" . pack('N', 0) . pack('N/a*', 'PLAIN') . pack('N/a*', 'en_US'));
my $TUNE     = method(0, 10, 30, pack('nNn', 0, 131072, 60));
my $OPEN_OK  = method(0, 10, 41, "\0");
my $READY    = method(1, 20, 11, pack('N', 0)) . method(1, 85, 11, '');
my $GREETING = $START . $TUNE . $OPEN_OK . $READY;    # a client that asks in order can be answered in advance
my $DELIVER  = method(1, 60, 60, "\x03vcl" . pack('Q>', 1) . "\0\0\x01q");
sub closing { my ($code, $text) = @_; return method(0, 10, 50, pack('nC/a*nn', $code, $text, 0, 0)) }
sub header  { my ($size) = @_; return frame(2, 1, pack('nnQ>n', 60, 0, $size, 0)) }
sub content { my ($body) = @_; return header(length($body)) . (length($body) ? frame(3, 1, $body) : '') }

my @children;
# A listener whose child runs the code with each connection; returns the port.
sub peer {
	my ($code) = @_;
	my $listener = IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => 0, Listen => 5) or die "listen: $@";
	my $port = $listener->sockport;
	defined(my $pid = fork()) or die "fork: $!";
	if ($pid == 0) {
		local $SIG{PIPE} = 'IGNORE';
		while (my $socket = $listener->accept) { $code->($socket); CORE::close($socket) }
		POSIX::_exit(0);
	}
	push @children, $pid;
	return $port;
}
END { my $status = $?; kill('KILL', @children) if @children; $? = $status }

# A peer that says this and then listens until it is left.
sub says { my (@octets) = @_; return sub { my ($socket) = @_; for (@octets) { syswrite($socket, $_) } listens($socket) } }
sub listens { my ($socket) = @_; 1 while sysread($socket, my $ignored, 65536); return }

sub connected {
	my ($port, $seconds, %more) = @_;
	my %settings = (host => '127.0.0.1', port => $port, user => 'u', password => 'p', vhost => '/', tls => 0, %more);
	return $AMQP->connect(\%settings, $AMQP->now + $seconds);
}

# The failure of a code: its kind, text and how long it took.
sub failure {
	my ($code) = @_;
	my $began = time;
	return ['none', '', 0] if eval { $code->(); 1 };
	return ref($@) ? [$@->kind, "$@", time - $began] : ['died', $@, time - $began];
}

sub fails {
	my ($name, $code, $kind, $text, $at_most) = @_;
	my $failure = failure($code);
	is($failure->[0], $kind, "$name: $kind");
	like($failure->[1], $text, "$name: the reason");
	unlike($failure->[1], qr/\n./, "$name: one line");
	cmp_ok($failure->[2], '<', $at_most || 2, "$name: in time");
	return;
}

fails('nobody listens', sub { connected(1, 2) }, 'lost', qr/127\.0\.0\.1:1 cannot be reached: Connection refused/);
fails('no such host', sub { connected(1, 2, host => 'nowhere.invalid') }, 'lost', qr/cannot be reached: \S/, 10);
fails('a silent peer', sub { connected(peer(says()), 0.5) }, 'lost', qr/did not answer in time/);
fails('a peer that hangs up', sub { connected(peer(sub { }), 2) }, 'lost', qr/closed the connection without a word|broke off/);
fails('a web server', sub { connected(peer(says("HTTP/1.1 400 Bad Request\r\n\r\n")), 2) }, 'protocol', qr/unknown type 72/);
fails('half a frame', sub { connected(peer(says(substr($START, 0, 20))), 0.5) }, 'lost', qr/did not answer in time/);
fails('a frame without an end', sub { connected(peer(says(substr($START, 0, -1) . "\0")), 2) }, 'protocol', qr/without an end/);
fails('an endless frame', sub { connected(peer(says(pack('CnN', 1, 0, 0x7fffffff))), 2) }, 'protocol', qr/2147483647 bytes/);
fails('a method that is cut off', sub { connected(peer(says($START, method(0, 10, 30, "\0"))), 2) }, 'protocol', qr/cut off/);
fails('an empty method', sub { connected(peer(says(frame(1, 0, ''))), 2) }, 'protocol', qr/cut off/);
fails('the wrong method', sub { connected(peer(says($TUNE)), 2) }, 'protocol', qr/sent connection\.tune where connection\.start/);
fails('a body out of nowhere', sub { connected(peer(says(frame(3, 1, 'x'))), 2) }, 'protocol', qr/type 3 where a method/);
my $TINY = method(0, 10, 30, pack('nNn', 0, 64, 60));
fails('tiny frames', sub { connected(peer(says($START, $TINY)), 2) }, 'protocol', qr/frames of 64 bytes/);
fails('a refused login', sub { connected(peer(says($START, closing(403, 'ACCESS_REFUSED'))), 2) }, 'refused', qr/403 ACCESS/);
fails('a broker that goes down', sub { connected(peer(says($START, closing(320, 'CONNECTION_FORCED'))), 2) },
	'lost', qr/320 CONNECTION_FORCED/);
fails('a close that is cut off', sub { connected(peer(says($START, method(0, 10, 50, pack('n', 320)))), 2) }, 'protocol', qr/cut off/);

subtest 'deliveries' => sub {
	my $amqp = connected(peer(says($GREETING, $DELIVER . content('one') . $DELIVER . content('') . $DELIVER . content('three'))), 2);
	is($amqp->next_delivery($amqp->now + 2), $_, "body '$_'") for 'one', '', 'three';
	my $began = time;
	is($amqp->next_delivery($amqp->now + 0.3), undef, 'nothing at the deadline');
	cmp_ok(time - $began, '>=', 0.29, 'not before it');

	my $long  = join('', map { chr($_ % 256) } 1 .. 3000);
	my $slow = $DELIVER . header(3000) . frame(3, 1, substr($long, 0, 1000)) . frame(8, 0, '') . frame(3, 1, substr($long, 1000));
	$amqp = connected(peer(says($GREETING, split(/(?<=.{10})/s, $slow))), 2);
	is($amqp->next_delivery($amqp->now + 5), $long, 'a message that dribbles in, with a heartbeat in the middle');
};

subtest 'damaged deliveries' => sub {
	my %damage = (
		'a giant'                    => [$DELIVER . header(2**40), 'protocol', qr/announces a message/],
		'longer than announced'      => [$DELIVER . header(2) . frame(3, 1, 'xyz'), 'protocol', qr/longer message/],
		'no header'                  => [$DELIVER . frame(3, 1, 'xyz'), 'protocol', qr/where a header/],
		'a header that is cut off'   => [$DELIVER . frame(2, 1, pack('nn', 60, 0)), 'protocol', qr/cut off/],
		'our consumer was cancelled' => [method(1, 60, 30, "\x03vcl\0"), 'lost', qr/reply queue is gone/],
	);
	for my $what (sort keys %damage) {
		my ($octets, $kind, $text) = @{$damage{$what}};
		my $amqp = connected(peer(says($GREETING, $octets)), 2);
		fails($what, sub { $amqp->next_delivery($amqp->now + 2) }, $kind, $text);
		fails("$what: afterwards", sub { $amqp->next_delivery($amqp->now + 2) }, 'lost', qr/not connected/);
	}
};

subtest 'publishing' => sub {
	my $ack = method(1, 60, 80, pack('Q>C', 1, 0));
	my $back = method(1, 60, 50, pack('nC/a*C/a*C/a*', 312, 'NO_ROUTE', 'esxprov', 'mn1.load'));
	my $to = sub { my ($amqp, $body) = @_; return $amqp->publish('esxprov', 'mn1.load', $body, {type => 't'}, $amqp->now + 1) };
	ok($to->(connected(peer(says($GREETING, $ack)), 2), 'x'), 'confirmed');
	my $amqp = connected(peer(says($GREETING, $DELIVER . content('early') . $ack)), 2);
	ok($to->($amqp, 'x'), 'a delivery before the confirm is kept');
	is($amqp->next_delivery($amqp->now), 'early', 'and handed out');
	fails('no queue', sub { $to->(connected(peer(says($GREETING, $back . content('x') . $ack)), 2), 'x') },
		'unroutable', qr/no queue for mn1\.load \(312 NO_ROUTE\)/);
	fails('nack', sub { $to->(connected(peer(says($GREETING, method(1, 60, 120, pack('Q>C', 1, 0)))), 2), 'x') }, 'lost', qr/nack/);
	fails('no confirm', sub { $to->(connected(peer(says($GREETING)), 2), 'x') }, 'lost', qr/did not confirm/);
	my $blocked = method(0, 10, 60, pack('C/a*', 'low on disk'));
	fails('blocked', sub { $to->(connected(peer(says($GREETING, $blocked)), 2), 'x') }, 'lost', qr/blocks publishers \(low on disk\)/);
	fails('wide characters', sub { $to->(connected(peer(says($GREETING)), 2), "\x{20ac}") }, 'died', qr/must be octets/);
	my $deaf = connected(peer(sub { my ($socket) = @_; syswrite($socket, $GREETING); sleep(20) }), 2);
	fails('a peer that reads nothing', sub { $to->($deaf, 'x' x 20_000_000) }, 'lost', qr/takes no data/);
	my $gone = connected(peer(sub { my ($socket) = @_; syswrite($socket, $GREETING); sleep(0.3) }), 2);
	sleep(0.6);
	fails('a peer that has gone (no SIGPIPE)', sub { $to->($gone, 'x' x 1_000_000) }, 'lost', qr/broke off|closed the connection/);
};

subtest 'TLS and a peer that has gone: no SIGPIPE, no warning' => sub {
	require IO::Socket::SSL;
	require IO::Socket::SSL::Utils;
	my $raised = 0;
	local $SIG{PIPE} = sub { $raised++ };
	no warnings 'redefine';
	# Ends the stream, then resets it: what is written to it afterwards raises the signal.
	my $leave = sub { my ($socket) = @_; shutdown($socket, 1); setsockopt($socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) };
	my $odd = pack('Cnn/a*', 22, 0x0303, "\x63\0\0\x01x");    # a message that does not exist; TLS answers with an alert

	my $port = peer(sub { my ($socket) = @_; sleep(0.2); $leave->($socket) });
	{
		my $open = \&VCL::Module::Provisioning::esxprov::Amqp::_open_socket;
		local *VCL::Module::Provisioning::esxprov::Amqp::_open_socket = sub { my $socket = $open->(@_); sleep(0.5); return $socket };
		fails('before the handshake', sub { connected($port, 5, tls => 1) }, 'lost', qr/TLS: /, 5);
	}
	$port = peer(sub { my ($socket) = @_; sysread($socket, my $hello, 1); syswrite($socket, $odd); $leave->($socket) });
	{
		my $select = \&VCL::Module::Provisioning::esxprov::Amqp::_select;
		local *VCL::Module::Provisioning::esxprov::Amqp::_select = sub { sleep(0.3); return $select->(@_) };
		fails('in the handshake', sub { connected($port, 5, tls => 1) }, 'lost', qr/TLS: /, 5);
	}
	my ($certificate, $key) = IO::Socket::SSL::Utils::CERT_create(subject => {commonName => 'peer'}, CA => 1,
		subjectAltNames => [[IP => '127.0.0.1']], purpose => 'server');
	my $file = File::Temp->new;
	print {$file} IO::Socket::SSL::Utils::PEM_cert2string($certificate);
	CORE::close($file);
	$port = peer(sub {
		my ($socket) = @_;
		my $tls = IO::Socket::SSL->start_SSL($socket, SSL_server => 1, SSL_cert => $certificate, SSL_key => $key) or return;
		syswrite($tls, $GREETING);
		my $heard = '';
		while ($heard !~ /\0\x55\0\x0a/) { sysread($tls, $heard, 65536, length($heard)) or return }
		POSIX::write(fileno($tls), $odd, length($odd));
		$leave->($tls);
		$tls->stop_SSL(SSL_no_shutdown => 1);
	});
	my $amqp = connected($port, 5, tls => 1, ca_file => $file->filename);
	sleep(0.5);
	fails('in a conversation', sub { $amqp->next_delivery($amqp->now + 2) }, 'lost', qr/broke off: \S/, 5);
	is($raised, 0, 'no SIGPIPE');
};

subtest 'heartbeats' => sub {
	my $counter = peer(sub {
		my ($socket) = @_;
		syswrite($socket, $GREETING);
		my ($end, $beats) = (time + 2.5, 0);
		while ((my $left = $end - time) > 0) {
			my $bits = '';
			vec($bits, fileno($socket), 1) = 1;
			next if !select($bits, undef, undef, $left);
			sysread($socket, my $in, 4096) or last;
			$beats += () = $in =~ /\x08\0\0\0\0\0\0\xCE/g;
			syswrite($socket, frame(8, 0, ''));
		}
		syswrite($socket, $DELIVER . content($beats));
		listens($socket);
	});
	my $amqp  = connected($counter, 2, heartbeat => 1);
	my $beats = $amqp->next_delivery($amqp->now + 10);
	cmp_ok($beats, '>=', 3, "sent while waiting ($beats in 2.5 s, two are due in 1 s)");

	$amqp = connected(peer(says($GREETING)), 2, heartbeat => 1);
	fails('a peer without a pulse', sub { $amqp->next_delivery($amqp->now + 10) }, 'lost', qr/silent for two heartbeats/, 4);

	$amqp = connected(peer(says($GREETING, $DELIVER . content('patient'))), 2, heartbeat => 1);
	sleep(2.5);
	is($amqp->next_delivery($amqp->now + 1), 'patient', 'what came while we were busy elsewhere is read before the silence counts');
};

subtest 'signals do not disturb a wait' => sub {
	my $amqp = connected(peer(sub {
		my ($socket) = @_;
		syswrite($socket, $GREETING);
		sleep(1.2);
		syswrite($socket, $DELIVER . content('late'));
		listens($socket);
	}), 2);
	my $rings = 0;
	local $SIG{ALRM} = sub { $rings++ };
	alarm(0.1, 0.1);
	is($amqp->next_delivery($amqp->now + 5), 'late', 'the message');
	alarm(0);
	cmp_ok($rings, '>=', 5, "in spite of $rings signals");
};

subtest 'nothing is left open' => sub {
	my $port = peer(sub {
		my ($socket) = @_;
		syswrite($socket, $GREETING);
		while (sysread($socket, my $in, 65536)) { syswrite($socket, method(0, 10, 51, '')) if $in =~ /\x01\0\0....\0\x0a\0\x32/s }
	});
	my $open = sub { my @open = glob('/proc/self/fd/*'); return scalar(@open) };
	connected($port, 2)->close;
	my $before = $open->();
	connected($port, 2)->close for 1 .. 3;
	failure(sub { connected(peer(says($TUNE)), 1) });
	is($open->(), $before, 'descriptors');
};

is_deeply(\@warnings, [], 'no warnings');
done_testing();
