#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Nothing that goes wrong in the shim may end a state process: each public subroutine is called in a process of its own
# that is set up as vcld sets up its children, with something going wrong at each layer.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use B ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep ualarm);

use ShimTest qw(provisioner reply notes clear);

my %FAILURE = (node_status => 'RELOAD', unload => 1, map { $_ => undef }
	qw(load capture retrieve_image post_maintenance_action does_image_exist get_image_size power_status power_on power_off power_reset));

# What a sub returns in a process with vcld's handlers, how many WARNINGs it logs; or how the process ended.
sub in_a_child {
	my ($call, $prepare) = @_;
	pipe(my $read, my $write) or die "pipe: $!";
	defined(my $pid = fork()) or die "fork: $!";
	if ($pid == 0) {
		close($read);
		my $warned = 0;
		$^W = 1;
		$SIG{__WARN__} = sub { $warned++; print STDERR "# $_[0]" };
		$SIG{__DIE__}  = sub { POSIX::_exit(70) };    # vcld's own handler exits, also from inside an eval
		$SIG{CHLD}     = sub { 1 while waitpid(-1, POSIX::WNOHANG()) > 0 };
		clear();
		my $self = provisioner();
		$self = $prepare->($self);
		($@, $!, $?) = ('before', 5, 7);
		my $result = $call eq 'as a function' ? VCL::Module::Provisioning::esxprov::load() : $self->$call();
		my $kept   = $@ eq 'before' && $! == 5 && $? == 7 ? 'kept' : "\$\@ or \$! or \$? changed: $@ $! $?";
		my @notes  = notes();
		my $alarm  = alarm(0);
		$result = 'undef' if !defined($result);
		syswrite($write, join("\t", $result, scalar(@notes), $warned, $kept, $alarm, @notes ? $notes[-1] : ''));
		POSIX::_exit(0);
	}
	close($write);
	my $line = do { local $/ = undef; <$read> };
	close($read);
	waitpid($pid, 0);
	return $? ? "the process ended with status $?" : $line;
}

sub answering {
	my ($self, $code) = @_;
	reply($_ => $code) for keys %FAILURE;
	return $self;
}

my %WRONG = (
	'the transport dies'              => sub { return answering($_[0], sub { die "no way\n" }) },
	'the transport dies of an object' => sub { return answering($_[0], sub { die {} }) },
	'the reply is no hash'            => sub { return answering($_[0], sub { return [] }) },
	'the reply has odd parts'         => sub {
		return answering($_[0], sub { return {outcome => 'failed', result => {}, error => {code => [], message => undef}} });
	},
	'vcld\'s data have gone'          => sub { my ($self) = @_; $self->{data} = undef; return $self },
	'vcld\'s OS object has gone'      => sub {
		my ($self) = @_;
		$self->{os} = undef;
		return answering($self, sub { die "no way\n" });
	},
	'the configuration is missing'    => sub {
		my ($self) = @_;
		no warnings qw(redefine once);
		*VCL::Module::Provisioning::esxprov::Config::load = sub { die "/etc/vcl/esxprov.conf cannot be read\n" };
		return $self;
	},
	'the database dies'               => sub {
		my ($self) = @_;
		no warnings qw(redefine once);
		*ShimTest::Database::do = *ShimTest::Database::selectall_arrayref = sub { die "gone away\n" };
		return $self;
	},
	'a module dies on loading'        => sub { return answering($_[0], sub { require No::Such::Module }) },
);

for my $wrong (sort keys %WRONG) {
	subtest $wrong => sub {
		for my $call (sort keys %FAILURE) {
			my $line = in_a_child($call, $WRONG{$wrong});
			my ($result, $notes, $warned, $kept, $alarm, $text) = split(/\t/, $line, 6);
			is($result, defined($FAILURE{$call}) ? $FAILURE{$call} : 'undef', "$call: its value for failure");
			is($notes, 1, "$call: logged once");
			like($text, qr/\A$call(?: of vclv1-27)? failed: [^\n]{3,}\z/, "$call: in one line");
			is($warned, 0, "$call: no Perl warning");
			is($kept, 'kept', "$call: \$\@, \$! and \$? as before");
		}
	};
}

subtest 'the log cannot be written either' => sub {
	my $line = in_a_child('load', sub {
		my ($self) = @_;
		no warnings qw(redefine once);
		*VCL::Module::Provisioning::esxprov::notify = sub { die "disk full\n" };
		return $self;
	});
	like($line, qr/\Aundef\t0\t0\tkept/, 'load returns');
};

subtest 'an alarm that run_command has left' => sub {
	for my $call (sort keys %FAILURE) {
		my $line = in_a_child($call, sub {
			my ($self) = @_;
			ualarm(200_000);
			return answering($self, sub { sleep(0.4); die "too late\n" });
		});
		unlike($line, qr/ended with status/, "$call: does not end the process");
		is((split(/\t/, $line))[4], 0, "$call: and is not left to vcld");
	}
	my $line = in_a_child('load', sub {
		my ($self) = @_;
		reply(load => {private_ip => '10.77.1.27'});
		no warnings 'once';
		$ShimTest::OS::POST_LOAD = sub { alarm(1); return 1 };
		return $self;
	});
	like($line, qr/\A1\t0\t0\tkept\t0\t/, 'one that post_load has left does not outlive load');
};

subtest 'the wall has no gap' => sub {
	my $package = ref(provisioner());
	no strict 'refs';
	my @public = grep { /^[a-z]/ && defined(&{"${package}::$_"}) && B::svref_2object(\&{"${package}::$_"})->STASH->NAME eq $package }
		keys %{"${package}::"};
	is_deeply([sort @public], [sort 'initialize', keys %FAILURE], 'every public subroutine is tried in here');
	my $line = in_a_child('initialize', sub { alarm(100); return $_[0] });
	like($line, qr/\A1\t0\t0\tkept\t0\t/, 'initialize, which cannot fail, switches an alarm off, too');
};

subtest 'called as a function' => sub {
	my $line = in_a_child('as a function', sub { return $_[0] });
	like($line, qr/\Aundef\t1\t0\tkept\t0\tload failed: it was called as a function/, 'false, and says so');
};

done_testing();
