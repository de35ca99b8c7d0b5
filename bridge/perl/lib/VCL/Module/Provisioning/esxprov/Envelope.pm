package VCL::Module::Provisioning::esxprov::Envelope;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Envelope - vcld's data <-> CloudEvents JSON

=head1 DESCRIPTION

The twin of bridge/envelope.py. An envelope is a hash reference with the
attributes of CloudEvents 1.0; 'data' is plain JSON. What goes in is a whitelist
of DataStructure values: the facts of the request, never a secret.

=cut

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();
use POSIX ();
use Time::HiRes ();
use Time::Local ();

use VCL::Module::Provisioning::esxprov::Contract qw(%CALLS %PHASES %OUTCOMES $MESSAGE_VERSION $MAX_BYTES message_type);

our $VERSION   = '0.1';
our @EXPORT_OK = qw(request for_reservation encode decode call_of finished_data remaining_s plain is_noimage);

my $TYPE = qr/\Avcl\.([a-z_]+)\.([a-z]+)\.v([1-9][0-9]*)\z/;
my $ID   = qr/\A[A-Za-z0-9_.:-]{1,64}\z/;
my $TIME = qr/\A(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d{1,6})?(?:Z|([+-])(\d\d):(\d\d))\z/;

# A limit on nesting: JSON::PP recurses, and past a depth of 100 Perl would warn into vcld's log.
my $JSON = JSON::PP->new->utf8->canonical->max_depth(64);

#//////////////////////////////////////////////////////////////////////////////

=head2 request

 Parameters  : $call, $data, %attribute
 Returns     : hash reference
 Description : A new request with a new id, due after the call's own deadline.
               Wanted attributes: source. Optional: subject, correlationid,
               partitionkey; id, now (epoch seconds) and traceparent for tests.

=cut

sub request {
	my ($call, $data, %attribute) = @_;
	my $now = delete $attribute{now};
	$now = Time::HiRes::time() if !defined($now);
	my $contract = $CALLS{$call} or die "there is no call '$call'\n";
	return {
		specversion     => '1.0',
		id              => _uuid(),
		type            => message_type($call, 'requested'),
		time            => format_time($now),
		datacontenttype => 'application/json',
		expirytime      => format_time($now + $contract->{deadline_s}),
		traceparent     => '00-' . _random_hex(16) . '-' . _random_hex(8) . '-01',
		data            => $data,
		%attribute,
	};
}

#//////////////////////////////////////////////////////////////////////////////

=head2 for_reservation

 Parameters  : $call, $data_structure, $management_node, $image_name (optional)
 Returns     : hash reference
 Description : The request for a call about the reservation that this vcld
               process works on.

=cut

sub for_reservation {
	my ($call, $data_structure, $management_node, $image_name) = @_;
	my $data           = reservation_data($data_structure, $image_name);
	my $computer       = 'computer/' . $data->{computer}{id};
	my $request_id     = $data->{reservation}{request_id};
	my $reservation_id = $data->{reservation}{reservation_id};
	return request($call, $data,
		source        => "urn:vcl:mn:$management_node",
		subject       => $computer,
		partitionkey  => $computer,
		correlationid => "request/$request_id/reservation/$reservation_id",
	);
}

#//////////////////////////////////////////////////////////////////////////////

=head2 reservation_data

 Parameters  : $data_structure, $image_name (optional)
 Returns     : hash reference
 Description : The 'data' of a request. If another image than the reserved one is
               asked about, nothing but its name is known here. 'noimage' is no
               image, and a computer without a VM host has no profile: such
               sections are left out.

=cut

sub reservation_data {
	my ($data_structure, $image_name) = @_;
	my $d = $data_structure;
	# A getter without a value returns an empty list, which would shift the keys of a hash: hence scalar(). The 0 tells
	# it not to log a WARNING about that.
	my $own_image = _text(scalar($d->get_image_name(0)));
	my %data = (
		reservation => {
			request_id     => _whole(scalar($d->get_request_id(0))),
			reservation_id => _whole(scalar($d->get_reservation_id(0))),
			state          => _text(scalar($d->get_request_state_name(0))),
			cluster        => [map { _whole($_) } $d->get_reservation_ids()],
			server         => _flag(scalar($d->get_server_request_id(0))),
		},
		computer => {
			id          => _whole(scalar($d->get_computer_id(0))),
			name        => _text(scalar($d->get_computer_short_name(0))),
			private_mac => _text(scalar($d->get_computer_eth0_mac_address(0))),
			public_mac  => _text(scalar($d->get_computer_eth1_mac_address(0))),
		},
	);
	$image_name = defined($image_name) ? _text($image_name) : $own_image;
	if (!is_noimage($image_name)) {
		$data{image} = $image_name ne $own_image ? {name => $image_name} : {
			id           => _whole(scalar($d->get_image_id(0))),
			name         => $own_image,
			revision_id  => _whole(scalar($d->get_imagerevision_id(0))),
			os           => _text(scalar($d->get_image_os_name(0))),
			os_type      => _text(scalar($d->get_image_os_type(0))),
			architecture => _text(scalar($d->get_image_architecture(0))),
			size_mb      => _whole(scalar($d->get_image_size(0))),
			min_cpus     => _whole(scalar($d->get_image_minprocnumber(0))),
			min_ram_mb   => _whole(scalar($d->get_image_minram(0))),
			project      => _text(scalar($d->get_image_project(0))),
		};
	}
	if (defined(scalar($d->get_vmhost_profile_id(0)))) {
		my @networks = map { my $getter = "get_vmhost_profile_virtualswitch$_"; _text(scalar($d->$getter(0))) } 0 .. 3;
		# One left out before another keeps its place: the first is the private network, the second the public one.
		pop @networks while @networks && !length($networks[-1]);
		$data{profile} = {
			id              => _whole(scalar($d->get_vmhost_profile_id(0))),
			name            => _text(scalar($d->get_vmhost_profile_name(0))),
			datastore_path  => _text(scalar($d->get_vmhost_profile_datastore_path(0))),
			vm_path         => _text(scalar($d->get_vmhost_profile_vmpath(0))),
			repository_path => _text(scalar($d->get_vmhost_profile_repository_path(0))),
			disk            => _text(scalar($d->get_vmhost_profile_vmdisk(0))),
			networks        => \@networks,
			generated_macs  => [map { _flag($_) }
				scalar($d->get_vmhost_profile_eth0generated(0)), scalar($d->get_vmhost_profile_eth1generated(0))],
		};
	}
	return \%data;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 is_noimage

 Parameters  : $image_name
 Returns     : boolean
 Description : 'noimage' is VCL's name for an empty computer.

=cut

sub is_noimage {
	my ($image_name) = @_;
	return !defined($image_name) || $image_name eq '' || $image_name =~ /^noimage/ ? 1 : 0;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 encode

 Parameters  : $envelope
 Returns     : string of octets
 Description : The JSON body. Dies if it is over the size limit.

=cut

sub encode {
	my ($envelope) = @_;
	my $body = $JSON->encode($envelope);
	die 'the message has ' . length($body) . " bytes, $MAX_BYTES are allowed\n" if length($body) > $MAX_BYTES;
	return $body;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 decode

 Parameters  : $octets
 Returns     : hash reference
 Description : The envelope in a message body. Dies with a sentence for a body
               that is not one of ours.

=cut

sub decode {
	my ($octets) = @_;
	die 'the message has ' . length($octets) . " bytes, $MAX_BYTES are allowed\n" if length($octets) > $MAX_BYTES;
	my $envelope = eval { local $SIG{__DIE__} = 'DEFAULT'; $JSON->decode($octets) };
	die 'the body is not JSON: ' . _first_line($@) . "\n" if !defined($envelope);
	die "the body is not a JSON object\n" if ref($envelope) ne 'HASH';
	die "specversion is not 1.0\n" if _text($envelope->{specversion}) ne '1.0';
	for my $name (qw(id type source time)) {
		my $value = $envelope->{$name};
		die "$name is missing or not a string\n" if !defined($value) || ref($value) || $value eq '';
	}
	my ($call, $phase, $version) = $envelope->{type} =~ $TYPE;
	die "type '$envelope->{type}' is not of the form vcl.<call>.<phase>.v<n>\n"
		if !defined($call) || !$PHASES{$phase};
	die "there is no call '$call'\n" if !$CALLS{$call};
	die "version $version is not spoken here\n" if $version != $MESSAGE_VERSION;
	die "id must be 1 to 64 of A-Z a-z 0-9 _ . : -\n" if $envelope->{id} !~ $ID;
	die "data is missing or not an object\n" if ref($envelope->{data}) ne 'HASH';
	for my $name (qw(time expirytime)) {
		die "$name is not a time like 2026-11-22T05:41:07Z\n" if defined($envelope->{$name}) && !defined(parse_time($envelope->{$name}));
	}
	return $envelope;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 call_of

 Parameters  : $envelope
 Returns     : ($call, $phase)
 Description : ('load', 'finished') for vcl.load.finished.v1.

=cut

sub call_of {
	my ($envelope) = @_;
	my ($call, $phase) = $envelope->{type} =~ $TYPE;
	return ($call, $phase);
}

#//////////////////////////////////////////////////////////////////////////////

=head2 finished_data

 Parameters  : $envelope
 Returns     : hash reference { outcome, result, error }
 Description : The checked data of a final reply: 'result' and 'error' are hash
               references in any case. Dies with a sentence if it is not one.

=cut

sub finished_data {
	my ($envelope) = @_;
	my $data    = $envelope->{data};
	my $outcome = _text($data->{outcome});
	die "the reply has no known outcome\n" if !$OUTCOMES{$outcome};
	my %finished = (outcome => $outcome);
	for my $part (qw(result error)) {
		$finished{$part} = defined($data->{$part}) ? $data->{$part} : {};
		die "the reply's $part is not an object\n" if ref($finished{$part}) ne 'HASH';
	}
	return \%finished;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 remaining_s

 Parameters  : $envelope, $now (optional, epoch seconds)
 Returns     : number
 Description : Seconds until the request's deadline, negative when it is over.

=cut

sub remaining_s {
	my ($envelope, $now) = @_;
	$now = Time::HiRes::time() if !defined($now);
	my $due = defined($envelope->{expirytime}) ? parse_time($envelope->{expirytime}) : undef;
	return defined($due) ? $due - $now : -1;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 format_time

 Parameters  : $epoch_seconds
 Returns     : string
 Description : '2026-11-22T05:41:07Z', with microseconds only if there are any.

=cut

sub format_time {
	my ($epoch) = @_;
	my $seconds = POSIX::floor($epoch);
	my $micros  = int(($epoch - $seconds) * 1e6);
	return POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime($seconds)) . ($micros ? sprintf('.%06d', $micros) : '') . 'Z';
}

#//////////////////////////////////////////////////////////////////////////////

=head2 parse_time

 Parameters  : $text
 Returns     : epoch seconds, undefined if the text is no time
 Description : The inverse of format_time; understands other time zones.

=cut

sub parse_time {
	my ($text) = @_;
	return if !defined($text) || ref($text);
	my ($year, $month, $day, $hour, $minute, $second, $fraction, $sign, $hours, $minutes) = $text =~ $TIME or return;
	my $epoch = eval {
		local $SIG{__DIE__} = 'DEFAULT';
		Time::Local::timegm($second, $minute, $hour, $day, $month - 1, $year);
	};
	return if !defined($epoch);
	$epoch += "0$fraction" if defined($fraction);
	return $epoch if !defined($sign);
	my $offset = $hours * 3600 + $minutes * 60;
	return $sign eq '+' ? $epoch - $offset : $epoch + $offset;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 plain

 Parameters  : $value
 Returns     : string
 Description : A text fit for vcld's log and for the latin1 columns of its
               database: one line of at most 1000 printable ASCII characters.

=cut

sub plain {
	my ($value) = @_;
	my $text = _text($value);
	$text =~ s/\s+/ /g;
	$text =~ s/[^\x20-\x7e]/?/g;
	$text =~ s/^ | $//g;
	return length($text) > 1000 ? substr($text, 0, 997) . '...' : $text;
}

# A text in characters. Which octets a latin1 column arrives as depends on the client library of DBD::mysql: current
# ones ask for utf8mb4, older ones for latin1, and neither marks the value. Latin1 text that happens to be UTF-8 is none.
sub _text {
	my ($value) = @_;
	return '' if !defined($value) || ref($value);
	my $text = "$value";
	utf8::decode($text) if !utf8::is_utf8($text);
	return $text;
}

sub _flag { my ($value) = @_; return $value ? JSON::PP::true() : JSON::PP::false() }

sub _whole { my ($value) = @_; return defined($value) && $value =~ /\A\d{1,15}\z/ ? int($value) : 0 }

sub _first_line { my ($text) = @_; my ($line) = split(/\n/, $text); return defined($line) ? $line : '' }

sub _random_hex {
	my ($bytes) = @_;
	open(my $urandom, '<:raw', '/dev/urandom') or die "/dev/urandom cannot be opened: $!\n";
	my $read = sysread($urandom, my $octets, $bytes);
	close($urandom);
	die "/dev/urandom gave too few bytes\n" if !$read || $read != $bytes;
	return unpack('H*', $octets);
}

sub _uuid {
	my $hex = _random_hex(16);
	substr($hex, 12, 1, '4');
	substr($hex, 16, 1, substr('89ab', hex(substr($hex, 16, 1)) & 3, 1));
	return join('-', unpack('A8 A4 A4 A4 A12', $hex));
}

1;
