#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::More;

use VCL::Module::Provisioning::esxprov::Config;

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $^W = 1;

my $dir = tempdir(CLEANUP => 1);
delete @ENV{grep { /^ESXPROV_/ } keys %ENV};
local $ENV{ESXPROV_CONF} = "$dir/esxprov.conf";

sub write_file {
	my ($name, $text, $mode) = @_;
	open(my $file, '>', "$dir/$name") or die;
	print {$file} $text;
	close($file);
	chmod(defined($mode) ? $mode : oct('600'), "$dir/$name");
	return "$dir/$name";
}

sub loaded { my ($text) = @_; write_file('esxprov.conf', $text); return VCL::Module::Provisioning::esxprov::Config::load() }
sub refusal { my ($text) = @_; return eval { loaded($text); 1 } ? 'accepted' : $@ }

my $secret = write_file('secret', "s3cret with blanks \n");

my $config = loaded(<<"INI");
# a comment
[service]
management_node = mn1
workers_slow = 4
[pool blades]
endpoints = esx1,
    esx2, esx3
[vcld]
  url = amqps://vcl%64\@broker.example:5673/vcl%2Fprod   # the second broker
  password_file=$secret
  ca_file = $secret
INI
is_deeply($config, {
	path => "$dir/esxprov.conf", management_node => 'mn1', host => 'broker.example', port => 5673, user => 'vcld',
	password => 's3cret with blanks ', vhost => 'vcl/prod', tls => 1, ca_file => $secret, spool => '/var/spool/esxprov',
}, 'comments, continued lines, indented keys, percent escapes; only the line end of the password file is cut');

$config = loaded("[broker]\nurl = amqp://esxprov\@[::1]\npassword_file = $secret\n[vcld]\nspool = /s\n");
is_deeply([@$config{qw(host port user vhost tls spool management_node)}], ['::1', 5672, 'esxprov', '/', 0, '/s', undef],
	'[broker] stands in for [vcld]; defaults');

{
	local $ENV{ESXPROV_VCLD_URL} = 'amqps://other@h/';
	local $ENV{ESXPROV_VCLD_PASSWORD_FILE} = $secret;
	local $ENV{ESXPROV_SERVICE_MANAGEMENT_NODE} = 'mn7';
	$config = loaded("[vcld]\nurl = amqps://vcld\@broker\n");
	is_deeply([@$config{qw(host user management_node)}], ['h', 'other', 'mn7'], 'the environment wins over the file');
}

like(refusal("[vcld]\npassword_file = $secret\n"), qr/\[broker\] url is missing/, 'no url');
like(refusal("[vcld]\nurl = http://broker/\npassword_file = $secret\n"), qr/expected amqp:/, 'no broker\'s url');
like(refusal("[vcld]\nurl = amqp://vcld:hush\@broker/\npassword_file = $secret\n"), qr/holds a password/, 'a password in the url');
unlike(refusal("[vcld]\nurl = amqp://vcld:hush\@broker:x/\npassword_file = $secret\n"), qr/hush/, 'a password is not repeated');
like(refusal("[vcld]\nurl = amqps://vcld\@broker\n"), qr/password_file is missing/, 'no password file');
like(refusal("[vcld]\nurl = amqps://vcld\@broker\npassword_file = $dir/none\n"), qr/none, which is not a file/, 'an absent password file');
my $open = write_file('open', 'x', oct('644'));
like(refusal("[vcld]\nurl = amqps://vcld\@broker\npassword_file = $open\n"), qr/everybody may read: chmod 640/, 'an open password file');
like(refusal("[vcld]\nurl = amqps://vcld\@broker\npassword_file = $secret\nca_file = $dir/none\n"), qr/ca_file names/, 'an absent CA file');
for my $far (qw(broker 10.0.0.1 127.0.0.1.example.org [2001:db8::1])) {
	like(refusal("[vcld]\nurl = amqp://vcld\@$far\npassword_file = $secret\n"), qr/password in the clear: use amqps/, "in the clear to $far");
}
for my $near (qw(localhost 127.0.0.1 127.1.2.3 [::1])) {
	ok(loaded("[vcld]\nurl = amqp://vcld\@$near\npassword_file = $secret\n"), "in the clear to $near, which is this machine");
}
like(refusal("[vcld]\nrubbish\n"), qr/line 2 is neither/, 'not an INI file');
{
	local $ENV{ESXPROV_CONF} = "$dir/absent";
	ok(!eval { VCL::Module::Provisioning::esxprov::Config::load() }, 'no file');
	like($@, qr/absent cannot be read .*ESXPROV_CONF/, 'no file: what to do');
}
is_deeply(\@warnings, [], 'no warnings');
done_testing();
