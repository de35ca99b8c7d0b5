#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);

use ShimTest qw(golden golden_names data_structure);
use VCL::Module::Provisioning::esxprov::Contract qw(%CALLS);
use VCL::Module::Provisioning::esxprov::Envelope qw(request for_reservation encode decode call_of finished_data remaining_s plain);

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $^W = 1;

my $json = JSON::PP->new->utf8->canonical;

subtest 'every golden message is read, and written as it was' => sub {
	for my $name (golden_names()) {
		my $envelope = decode(golden($name));
		is(join('.', 'vcl', call_of($envelope), 'v1.json'), $name, "$name: call and phase");
		is($json->encode($json->decode(encode($envelope))), $json->encode($json->decode(golden($name))), "$name: same content");
	}
};

subtest 'a request from vcld\'s data is the golden request' => sub {
	# What an imaging reservation points at is the image to be made.
	my %capture = (request_state_name => 'image', image_id => 12, image_name => 'vmwarelinux-desk12-v0', imagerevision_id => 40);
	for my $call (grep { $CALLS{$_}{kind} ne 'control' && !/^(?:place|capacity)$/ } sort keys %CALLS) {
		my $golden  = $json->decode(golden("vcl.$call.requested.v1.json"));
		my $request = for_reservation($call, data_structure($call eq 'capture' ? %capture : ()), 'mn1');
		like($request->{id}, qr/\A[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z/, "$call: id is a random UUID");
		like($request->{traceparent}, qr/\A00-[0-9a-f]{32}-[0-9a-f]{16}-01\z/, "$call: traceparent");
		cmp_ok(abs(remaining_s($request) - $CALLS{$call}{deadline_s}), '<', 2, "$call: deadline");
		$request->{$_} = $golden->{$_} for qw(id time expirytime traceparent);
		is(encode($request), $json->encode($golden), "$call: the rest, with the types of the values");
	}
};

subtest 'values that are not set do not shift the keys' => sub {
	my $unset = data_structure(computer_eth0_mac_address => undef, image_project => undef, image_size => undef);
	my $data  = for_reservation('load', $unset, 'mn1')->{data};
	is_deeply($data->{computer}, {id => 27, name => 'vclv1-27', private_mac => '', public_mac => '00:50:56:00:02:1b'}, 'computer');
	is($data->{image}{size_mb}, 0, 'a number is 0');
	is($data->{image}{project}, '', 'a text is empty');
};

subtest 'what is not there is left out' => sub {
	ok(!exists for_reservation('unload', data_structure(image_name => 'noimage'), 'mn1')->{data}{image}, 'noimage is no image');
	ok(!exists for_reservation('unload', data_structure(vmhost_profile_id => undef), 'mn1')->{data}{profile}, 'no VM host, no profile');
	is_deeply(for_reservation('does_image_exist', data_structure(), 'mn1', 'other-v0')->{data}{image}, {name => 'other-v0'},
		'of another image only the name is known');
	my $one_switch = data_structure(vmhost_profile_virtualswitch1 => undef);
	is_deeply(for_reservation('load', $one_switch, 'mn1')->{data}{profile}{networks}, ['Private'],
		'a switch that is not set is no network');
	my $no_private = data_structure(vmhost_profile_virtualswitch0 => undef);
	is_deeply(for_reservation('load', $no_private, 'mn1')->{data}{profile}{networks}, ['', 'Public'],
		'but one before another keeps its place');
};

subtest 'a server request is one that has a row in serverrequest' => sub {
	my %is_server = (yes => data_structure(server_request_id => 3), no => data_structure());
	is(encode({s => for_reservation('load', $is_server{yes}, 'mn1')->{data}{reservation}{server}}), '{"s":true}', 'it has');
	is(encode({s => for_reservation('load', $is_server{no}, 'mn1')->{data}{reservation}{server}}), '{"s":false}', 'it has not');
};

subtest 'no secret of the profile is carried' => sub {
	my $body = encode(for_reservation('load', data_structure(vmhost_profile_username => 'root', vmhost_profile_password => 'hush',
		vmhost_profile_secret_id => 17), 'mn1'));
	unlike($body, qr/hush|root|secret/, 'neither user nor password');
};

subtest 'names outside ASCII arrive as UTF-8' => sub {
	my $body = encode(for_reservation('load', data_structure(vmhost_profile_name => "Fl\xfcgel"), 'mn1'));
	ok(!utf8::is_utf8($body), 'octets');
	like($body, qr/Fl\xc3\xbcgel/, 'latin1 from the database becomes UTF-8');
	$body = encode(for_reservation('load', data_structure(vmhost_profile_virtualswitch1 => "R\xc3\xa9seau \xc3\x9c"), 'mn1'));
	like($body, qr/"R\xc3\xa9seau \xc3\x9c"/, 'UTF-8 from the database, which is what current client libraries give, stays what it is');
};

subtest 'what is not one of ours is refused with a sentence' => sub {
	my $good = $json->decode(golden('vcl.load.finished.v1.json'));
	my %bad = (
		'not JSON'          => ['no json',                                    qr/not JSON/],
		'cut off'           => ['{"specversion":"1.0"',                       qr/not JSON/],
		'a list'            => ['[1]',                                        qr/not a JSON object/],
		'deep'              => [('[' x 100_000),                              qr/not JSON/],
		'empty'             => ['',                                           qr/not JSON/],
		'other specversion' => [{%$good, specversion => '0.3'},               qr/specversion/],
		'no id'             => [{%$good, id => undef},                        qr/id is missing/],
		'id with a path'    => [{%$good, id => '../x'},                       qr/id must be/],
		'unknown call'      => [{%$good, type => 'vcl.dance.finished.v1'},    qr/no call 'dance'/],
		'unknown phase'     => [{%$good, type => 'vcl.load.dreamt.v1'},       qr/not of the form/],
		'newer version'     => [{%$good, type => 'vcl.load.finished.v2'},     qr/version 2/],
		'data is a text'    => [{%$good, data => 'x'},                        qr/data is missing/],
		'time is a number'  => [{%$good, time => {}},                         qr/time is missing/],
		'time is no time'   => [{%$good, time => 'tomorrow'},                 qr/time is not a time/],
		'no such day'       => [{%$good, expirytime => '2026-02-31T00:00:00Z'}, qr/expirytime is not a time/],
		'too large'         => ['{"a":"' . ('x' x 262_144) . '"}',            qr/262144 are allowed/],
	);
	for my $what (sort keys %bad) {
		my ($body, $error) = @{$bad{$what}};
		my $decoded = eval { decode(ref($body) ? $json->encode($body) : $body) };
		ok(!defined($decoded), "$what: refused");
		like($@, $error, "$what: the reason");
	}
	for my $data ({}, {outcome => 'maybe'}, {outcome => 'ok', result => []}, {outcome => 'failed', error => 'x'}) {
		ok(!eval { finished_data({data => $data}) }, 'not a final reply: ' . $json->encode($data));
	}
};

subtest 'times' => sub {
	*format = \&VCL::Module::Provisioning::esxprov::Envelope::format_time;
	*parse  = \&VCL::Module::Provisioning::esxprov::Envelope::parse_time;
	is(main::format(1795326067), '2026-11-22T05:41:07Z', 'whole seconds');
	is(main::format(1795326067.25), '2026-11-22T05:41:07.250000Z', 'microseconds');
	is(parse('2026-11-22T06:41:07+01:00'), 1795326067, 'another time zone');
	my $now = time;
	cmp_ok(abs(parse(main::format($now)) - $now), '<', 2e-6, 'there and back');
};

is(plain("a\n b\x{20ac}\x07 "), 'a b??', 'a text for the log is one line of ASCII');
is(length(plain('x' x 5000)), 1000, 'and not long');
is_deeply(\@warnings, [], 'no warnings');
done_testing();
