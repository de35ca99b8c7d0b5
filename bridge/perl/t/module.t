#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What each subroutine tells vcld for each thing the service can say, and what it leaves in vcld's rows and caches.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;

use ShimTest qw(golden provisioner reply failure notes statements clear);
use VCL::Module::Provisioning::esxprov::Envelope qw(decode finished_data);

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $^W = 1;
my ($yes, $no) = (JSON::PP::true(), JSON::PP::false());

sub sql_like { my ($pattern) = @_; return scalar(grep { $_ =~ $pattern } statements()) }

# A fresh object, with vcld's caches as node_status leaves them.
sub fresh {
	my (%change) = @_;
	clear();
	my $self = provisioner(%change);
	$ENV->{computer_private_ip_address}{27} = '10.77.1.9';
	$ENV->{remote_connection_target}{$_} = '10.77.1.9' for 'vclv1-27', 'vclv1-27.vcl.test';
	return $self;
}

subtest 'initialize does nothing and says yes' => sub {
	my $self = fresh();
	is($self->initialize({}), 1, 'true');
	is_deeply([statements()], [], 'no SQL');
};

subtest 'load' => sub {
	my @order;
	my $self = fresh();
	reply(load => sub {
		push @order, 'load';
		is(sql_like(qr/privateIPaddress = NULL/), 1, 'the old address is forgotten before anything is built');
		ok(!exists $ENV->{remote_connection_target}{'vclv1-27'}, 'in the cache of targets too');
		return {outcome => 'ok', result => {vmhost_id => 3, private_ip => '10.77.1.27'}, error => {}};
	});
	local $ShimTest::OS::POST_LOAD = sub {
		push @order, 'post_load';
		for my $name ('vclv1-27', 'vclv1-27.vcl.test') {
			is($ENV->{remote_connection_target}{$name}, '10.77.1.27', "post_load would connect to the new address of $name");
		}
		return 1;
	};
	is($self->load(), 1, 'true');
	is_deeply(\@order, ['load', 'post_load'], 'post_load is called, afterwards');
	is($self->data->get_computer_private_ip_address(), '10.77.1.27', 'address in the data');
	is(sql_like(qr/privateIPaddress = '10\.77\.1\.27' WHERE id = 27/), 1, 'in the database');
	is(sql_like(qr/= NULL WHERE privateIPaddress = '10\.77\.1\.27' AND id != 27 AND provisioningid = 13/), 1, 'and nowhere else');
	is(sql_like(qr/vmhostid = '3' WHERE id = 27/), 1, 'the new VM host');
	is_deeply([notes()], [], 'nothing to complain about');

	$self = fresh();
	reply(load => {vmhost_id => 2, private_ip => '10.77.1.27'});
	$self->load();
	is(sql_like(qr/vmhostid/), 0, 'the same VM host is not written again');

	$self = fresh();
	reply(load => {private_ip => '10.77.1.27'});
	{
		local $ShimTest::OS::POST_LOAD = sub { return 0 };
		is($self->load(), undef, 'false if post_load fails');
	}
	like((notes())[0], qr/\Aload of vclv1-27 failed: the OS module's post_load failed/, 'the reason');

	for my $address (undef, '', '10.77.1', 'null', "10.77.1.27' OR 1=1", {}) {
		$self = fresh();
		reply(load => {private_ip => $address});
		is($self->load(), undef, 'false without a usable address');
		is(sql_like(qr/OR 1=1/), 0, 'which reaches no SQL');
	}

	$self = fresh();
	failure(load => 'no_capacity', 'no host takes 2048 MB: esx1 has 512 MB free');
	is($self->load(), undef, 'false if the service says no');
	is_deeply([notes()], ['load of vclv1-27 failed: no_capacity: no host takes 2048 MB: esx1 has 512 MB free'], 'its sentence, once');
	is(sql_like(qr/computerloadlog .* 'info'.*no\\ host\\ takes/s), 1, 'also in the reservation\'s history');
	is(sql_like(qr/privateIPaddress = NULL/), 1, 'the address stays forgotten');
};

subtest 'a cancelled load is a failure, but nothing to be warned about' => sub {
	my $self = fresh();
	reply(load => sub { return {outcome => 'cancelled', result => {}, error => {code => 'cancelled', message => 'the user deleted it'}} });
	is($self->load(), undef, 'false');
	is_deeply([notes()], [], 'no warning');
};

subtest 'load of noimage is an unload' => sub {
	my $self = fresh(image_name => 'noimage');
	my $post_loaded = 0;
	local $ShimTest::OS::POST_LOAD = sub { $post_loaded++; return 1 };
	reply(unload => {removed => $yes});
	is($self->load(), 1, 'true');
	is($post_loaded, 0, 'without post_load');
	$self = fresh(image_name => 'noimage');
	failure(unload => 'host_unavailable', 'esx1 does not answer');
	is($self->load(), undef, 'false if it was not done');
};

subtest 'unload is always true' => sub {
	my $self = fresh();
	reply(unload => {removed => $yes});
	is($self->unload(), 1, 'done');
	ok(!$self->data->get_computer_private_ip_address(), 'no address in the data');
	is(sql_like(qr/privateIPaddress = NULL WHERE id = 27/), 1, 'nor in the database');
	is_deeply([sort keys %{$ENV->{remote_connection_target}}], [], 'nor in the cache of targets');
	is(sql_like(qr/currentimageid = 1/), 1, 'the computer is empty');
	$self = fresh();
	failure(unload => 'host_unavailable', 'esx1 does not answer');
	is($self->unload(), 1, 'not done');
	like((notes())[0], qr/host_unavailable: esx1 does not answer/, 'the reason');
	$self = fresh();
	is($self->unload(), 1, 'nobody there');
};

subtest 'capture' => sub {
	my $self = fresh(request_state_name => 'image');
	my @asked;
	my $say = sub {
		my ($result) = @_;
		return sub {
			push @asked, $_[0]{type};
			return {outcome => 'ok', result => $result, error => {}};
		};
	};
	reply(power_status => $say->({state => 'off'}));
	reply(capture => $say->({image_path => 'x', size_mb => 10}));
	local $ShimTest::OS::PRE_CAPTURE = sub {
		my ($os, $arguments) = @_;
		is_deeply($arguments, {end_state => 'off'}, 'pre_capture is told to switch off');
		is($os->data->get_imagemeta_sysprep(), 0, 'without Sysprep');
		return 1;
	};
	is($self->capture(), 1, 'true');
	is_deeply(\@asked, ['vcl.power_status.requested.v1', 'vcl.capture.requested.v1'], 'the disk is copied when the VM is off');
	is(sql_like(qr/privateIPaddress = NULL/), 1, 'the guest is gone');

	$self = fresh(request_state_name => 'checkpoint');
	reply(power_status => {state => 'off'});
	reply(capture => {image_path => 'x', size_mb => 10});
	is($self->capture(), 1, 'checkpoint: true');
	is(sql_like(qr/privateIPaddress = NULL/), 0, 'checkpoint: the guest goes on');

	$self = fresh(request_state_name => 'image');
	@asked = ();
	reply(power_status => $say->({state => 'on'}));
	reply(power_off => $say->({state => 'off'}));
	reply(capture => $say->({}));
	{
		no warnings qw(redefine once);
		local *VCL::Module::Provisioning::wait_for_power_off = sub { return 0 };
		is($self->capture(), 1, 'a guest that does not shut down is switched off');
	}
	is_deeply([@asked[1, 2]], ['vcl.power_off.requested.v1', 'vcl.capture.requested.v1'], 'in this order');

	$self = fresh(request_state_name => 'image');
	{
		local $ShimTest::OS::PRE_CAPTURE = sub { return };
		is($self->capture(), undef, 'false if pre_capture fails');
	}
	$self = fresh(request_state_name => 'image');
	reply(power_status => {state => 'off'});
	failure(capture => 'image_exists', 'golden/x is there already');
	is($self->capture(), undef, 'false if it was not captured');
	is(sql_like(qr/privateIPaddress = NULL/), 0, 'the guest may still be needed');
};

subtest 'does_image_exist' => sub {
	my $self = fresh();
	reply(does_image_exist => {exists => $yes});
	is($self->does_image_exist(), 1, 'yes');
	reply(does_image_exist => {exists => $no});
	is($self->does_image_exist(), 0, 'no is 0');
	reply(does_image_exist => {});
	is($self->does_image_exist(), undef, 'an answer without an answer is undefined');
	failure(does_image_exist => 'host_unavailable', 'no datastore can be looked at');
	is($self->does_image_exist(), undef, 'cannot tell is undefined');
	my $asked;
	reply(does_image_exist => sub {
		$asked = $_[0]{data}{image};
		return {outcome => 'ok', result => {exists => $no}, error => {}};
	});
	is($self->does_image_exist('other-v1'), 0, 'with an argument');
	is_deeply($asked, {name => 'other-v1'}, 'that image is asked about');
	$self->does_image_exist('vmwarelinux-base9-v3');
	is($asked->{revision_id}, 31, 'of the reserved one all is told');
	clear();
	is($self->does_image_exist('noimage'), 1, 'noimage exists, without asking');
	is(fresh(image_name => 'noimage')->does_image_exist(), 1, 'without an argument too');
};

subtest 'retrieve_image' => sub {
	my $self = fresh();
	reply(retrieve_image => {copied_mb => 0});
	is($self->retrieve_image('vmwarelinux-base9-v3'), 1, 'done');
	failure(retrieve_image => 'image_not_found', 'no datastore has it');
	is($self->retrieve_image('vmwarelinux-base9-v3'), undef, 'not done');
	is($self->retrieve_image('noimage'), 1, 'noimage needs nothing');
};

subtest 'get_image_size fits into the column' => sub {
	my $self = fresh();
	my %size = (20480 => 20480, 70000 => 65535, 65535 => 65535, 0 => 1, 1.7 => 1, 12.9 => 12);
	for my $told (sort keys %size) {
		reply(get_image_size => {size_mb => $told});
		is($self->get_image_size('x-v0'), $size{$told}, "$told MB");
	}
	for my $told (undef, -1, 'big', {}) {
		reply(get_image_size => {size_mb => $told});
		is($self->get_image_size('x-v0'), undef, 'no size is undefined');
	}
};

subtest 'node_status' => sub {
	my %fine = (present => $yes, on_known_host => $yes, sized_right => $yes, disk_right => $yes);
	my $self = fresh();
	reply(node_status => {%fine});
	is($self->node_status(), 'READY', 'all is well');
	{
		local $ShimTest::OS::STATUS = 'TAGLESS';
		is($self->node_status(), 'POST_LOAD', 'post-load tasks are missing');
	}
	for my $fact (sort keys %fine) {
		reply(node_status => {%fine, $fact => $no});
		is($self->node_status(), 'RELOAD', "not $fact");
		my %less = %fine;
		delete $less{$fact};
		reply(node_status => \%less);
		is($self->node_status(), $fact eq 'disk_right' ? 'READY' : 'RELOAD', "$fact is not told (the disk's not by older services)");
	}
	failure(node_status => 'host_unavailable', 'esx1 does not answer');
	is($self->node_status(), 'RELOAD', 'cannot tell');
	clear();
	{
		local $ShimTest::OS::STATUS = 'DEAD';
		is($self->node_status(), 'RELOAD', 'the guest does not answer: the service is not asked');
	}
	is_deeply([notes()], [], 'which is no reason to complain');
	$self = fresh(computer_private_ip_address => undef);
	%$ENV = ();
	reply(node_status => {%fine});
	is($self->node_status(), 'RELOAD', 'no address, no guest');
};

subtest 'power' => sub {
	my $self = fresh();
	for my $state (qw(on off suspended)) {
		reply(power_status => {state => $state});
		is($self->power_status(), $state, $state);
	}
	reply(power_status => {state => 'dreaming'});
	is($self->power_status(), undef, 'an unknown state is undefined');
	failure(power_status => 'vm_not_found', 'vclv1-27 has no VM');
	is($self->power_status(), 'off', 'what is not there is off');
	failure(power_status => 'host_unavailable', 'esx1 does not answer');
	is($self->power_status(), undef, 'cannot tell is undefined');
	for my $call (qw(power_on power_off power_reset)) {
		$self = fresh();
		reply($call => {state => 'on'});
		is($self->$call(), 1, "$call: done");
		is_deeply([statements()], [], "$call: the address stays");
		failure($call => 'vsphere_fault', 'not now');
		is($self->$call(), undef, "$call: not done");
		reply($call => {state => 'on', private_ip => '10.77.1.99'});
		is($self->$call(), 1, "$call: done, with a new address");
		is($ENV->{remote_connection_target}{'vclv1-27'}, '10.77.1.99', "$call: vcld knows it");
	}
};

subtest 'post_maintenance_action' => sub {
	my $self = fresh();
	reply(post_maintenance_action => {removed => $yes});
	is($self->post_maintenance_action(), 1, 'done');
	is(sql_like(qr/vmhostid = NULL WHERE id = 27/), 1, 'off its host');
	is(sql_like(qr/currentimageid = 1/), 1, 'empty');
	is(sql_like(qr/privateIPaddress = NULL/), 1, 'without an address');
	$self = fresh();
	failure(post_maintenance_action => 'host_unavailable', 'esx1 does not answer');
	is($self->post_maintenance_action(), undef, 'not done');
	is_deeply([statements()], [], 'the rows still say where the VM is');
	is(fresh(vmhost_profile_id => undef)->post_maintenance_action(), 1, 'on no host there is nothing to remove');
};

subtest 'the golden replies are understood by the subroutine that asked' => sub {
	my %returns = (node_status => 'READY', power_status => 'on', get_image_size => 20480, map { $_ => 1 }
		qw(load unload capture retrieve_image post_maintenance_action does_image_exist power_on power_off power_reset));
	for my $call (sort keys %returns) {
		my $self = fresh(request_state_name => $call eq 'capture' ? 'image' : 'new');
		for my $asked ($call, $call eq 'capture' ? 'power_off' : ()) {
			my $reply = finished_data(decode(golden("vcl.$asked.finished.v1.json")));
			reply($asked => sub { return $reply });
		}
		reply(power_status => {state => 'off'}) if $call eq 'capture';
		is($self->$call(), $returns{$call}, $call);
		is_deeply([notes()], [], "$call: nothing to complain about");
	}
};

subtest 'a deleted request is believed only if the database answers' => sub {
	my $self = fresh();
	no warnings qw(redefine once);
	local *VCL::Module::Provisioning::esxprov::is_request_deleted = sub { return 1 };
	is($self->_is_deleted(), 1, 'it answers');
	local *VCL::Module::Provisioning::esxprov::database_select = sub { return };
	is($self->_is_deleted(), 0, 'it does not');
};

is_deeply(\@warnings, [], 'no warnings');
done_testing();
