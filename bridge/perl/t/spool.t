#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use ShimTest qw(data_structure);
use VCL::Module::Provisioning::esxprov::Envelope qw(for_reservation);
use VCL::Module::Provisioning::esxprov::Spool;

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $^W = 1;

my $parent = tempdir(CLEANUP => 1);
my $dir    = "$parent/a/spool";
my $spool  = VCL::Module::Provisioning::esxprov::Spool->new($dir);

sub load { my (%change) = @_; return for_reservation('load', data_structure(%change), 'mn1') }

my $first = load();
is($spool->find($first), undef, 'nothing is left before anything was asked');
ok($spool->store($first), 'stored');
is((stat($dir))[2] & oct('777'), oct('700'), 'the directory is ours alone');
my ($file, @more) = glob("$dir/*");
is_deeply(\@more, [], 'one file');
is((stat($file))[2] & oct('777'), oct('600'), 'the file too');

is($spool->find(load())->{id}, $first->{id}, 'a retry of the same work goes on with the same event');
my %other = (
	'another reservation'    => load(reservation_id => 9999),
	'another request'        => load(request_id => 99),
	'a reinstall'            => load(request_state_name => 'reinstall'),
	'another revision'       => load(imagerevision_id => 32),
	'another computer'       => load(computer_id => 28),
	'another call'           => for_reservation('unload', data_structure(), 'mn1'),
);
is($spool->find($other{$_}), undef, "$_ is other work") for sort keys %other;

{
	my $expired = load();
	$expired->{expirytime} = '2020-01-01T00:00:00Z';
	$spool->store($expired);
	is($spool->find(load()), undef, 'what is past its deadline is not gone on with');
}
my $second = load();
$spool->store($second);
is($spool->find(load())->{id}, $second->{id}, 'the newer event takes the place of the older');

for my $rubbish ('', '{', '[]', "\0" x 5000) {
	open(my $out, '>', $file) or die;
	print {$out} $rubbish;
	close($out);
	is($spool->find(load()), undef, 'a damaged file is as good as none');
}
ok($spool->store($second) && $spool->find(load()), 'and is written over');
ok($spool->forget($second), 'forgotten');
is_deeply([glob("$dir/*")], [], 'nothing is left behind');
ok($spool->forget($second), 'forgetting twice is no error');

chmod(oct('777'), $dir);
ok(!eval { $spool->store($first) }, 'a spool that others may write to is refused');
like($@, qr/chmod 700/, 'the reason');
my $blocked = VCL::Module::Provisioning::esxprov::Spool->new('/dev/null/spool');
ok(!eval { $blocked->store($first) }, 'a spool that cannot be made');
like($@, qr/cannot be made/, 'the reason');

is_deeply(\@warnings, [], 'no warnings');
done_testing();
