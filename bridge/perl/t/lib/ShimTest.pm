package ShimTest;

# SPDX-License-Identifier: Apache-2.0
#
# What the shim's unit tests share: the reservation of the golden messages as vcld's data, a database that remembers
# what it was told, an OS module and replies from a script.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use JSON::PP ();

my $HERE;
BEGIN {
	$HERE = File::Spec->rel2abs(dirname(__FILE__));
	unshift @INC, "$HERE/../../lib", "$HERE/../../../../tests/perl/lib";
	$ENV{VCL_LOG} = "/dev/null";
}

use VCL::utils;
use VCL::DataStructure;
use VCL::Module;

use Exporter qw(import);
our @EXPORT_OK = qw(golden golden_names data_structure provisioner reply failure notes statements clear);

my $EXAMPLES = "$HERE/../../../examples";

sub golden_names {
	opendir(my $directory, $EXAMPLES) or die "$EXAMPLES: $!";
	my @names = sort grep { /[.]json\z/ } readdir($directory);
	return @names;
}

# The octets of bridge/examples/$name.
sub golden {
	my ($name) = @_;
	open(my $file, '<:raw', "$EXAMPLES/$name") or die "$name: $!";
	local $/ = undef;
	return scalar(<$file>);
}

# vcld's data behind the golden messages; further values replace or, if undefined, unset these.
sub data_structure {
	my (%change) = @_;
	return VCL::DataStructure->new({values => {
		request_id => 1234, reservation_id => 5678, reservation_ids => [5678, 5679], request_state_name => 'new', computer_id => 27,
		computer_short_name => 'vclv1-27', computer_node_name => 'vclv1-27', computer_hostname => 'vclv1-27.vcl.test',
		computer_eth0_mac_address => '00:50:56:00:01:1b', computer_eth1_mac_address => '00:50:56:00:02:1b',
		computer_provisioning_id => 13, computer_vmhost_id => 2, computer_private_ip_address => '10.77.1.9', image_id => 9,
		image_name => 'vmwarelinux-base9-v3', imagerevision_id => 31, image_os_name => 'vmwarelinux', image_os_type => 'linux',
		image_architecture => 'x86_64', image_size => 20480, image_minprocnumber => 2, raw_minram => 2048, image_os_minram => 512,
		image_project => 'vcl', vmhost_profile_id => 4, vmhost_profile_name => 'blades', vmhost_profile_datastore_path => 'nfs1',
		vmhost_profile_vmpath => 'nfs1', vmhost_profile_repository_path => '', vmhost_profile_vmdisk => 'shared',
		vmhost_profile_virtualswitch0 => 'Private', vmhost_profile_virtualswitch1 => 'Public', vmhost_profile_eth0generated => 0,
		vmhost_profile_eth1generated => 0, management_node_short_name => 'mn1', imagemeta_sysprep => 1, %change,
	}});
}

my (@NOTES, @STATEMENTS, %REPLY);

# What was logged as WARNING or worse, and the SQL that was run, since clear().
sub notes      { return @NOTES }
sub statements { return @STATEMENTS }

sub clear {
	@NOTES = @STATEMENTS = %REPLY = ();
	%$ENV = ();
	return;
}

# reply(load => {...}): how the service answers a call; failure(...) for a refusal; a code reference is run.
sub reply {
	my ($call, $result) = @_;
	$REPLY{$call} = ref($result) eq 'CODE' ? $result : {outcome => 'ok', result => $result, error => {}};
	return;
}

sub failure {
	my ($call, $code, $message) = @_;
	$REPLY{$call} = {outcome => 'failed', result => {}, error => {code => $code, message => $message}};
	return;
}

{
	package ShimTest::Database;
	sub ping { return 1 }
	sub do   { my (undef, $sql) = @_; push @STATEMENTS, $sql; return 1 }
	sub selectall_arrayref {
		my (undef, $sql) = @_;
		return [{id => 27, privateIPaddress => $ENV->{computer_private_ip_address}{27}}] if $sql =~ /FROM computer/;
		return [{id => 1, imageid => 1}] if $sql =~ /FROM imagerevision/;
		return $sql =~ /alive/ ? [{alive => 1}] : [];
	}

	package ShimTest::OS;
	our @ISA = ('VCL::Module');
	our ($POST_LOAD, $PRE_CAPTURE, $STATUS) = (sub { 1 }, sub { 1 }, 'READY');
	sub post_load                    { return $POST_LOAD->(@_) }
	sub pre_capture                  { return $PRE_CAPTURE->(@_) }
	sub is_ssh_responding            { return $STATUS eq 'DEAD' ? 0 : 1 }
	sub get_current_imagerevision_id { return 31 }
	sub get_tainted_status           { return 0 }
	sub get_post_load_status         { return $STATUS eq 'READY' ? 1 : 0 }
}
$VCL::utils::handle = bless {}, 'ShimTest::Database';

sub provisioner {
	my (%change) = @_;
	require VCL::Module::Provisioning::esxprov;
	no warnings qw(redefine once);
	*VCL::Module::Provisioning::esxprov::notify = sub { my ($level, undef, $text) = @_; push @NOTES, $text if $level == 1 || $level == 2 };
	*VCL::Module::Provisioning::esxprov::Config::load = sub { return {path => 'esxprov.conf', management_node => 'mn1', spool => '/none'} };
	*VCL::Module::Provisioning::esxprov::Conversation::ask = sub {
		my (undef, $request) = @_;
		my ($call) = VCL::Module::Provisioning::esxprov::Envelope::call_of($request);
		my $reply = $REPLY{$call};
		die "no answer to $call in this test\n" if !$reply;
		return ref($reply) eq 'CODE' ? $reply->($request) : $reply;
	};
	my $data = data_structure(%change);
	my $os   = ShimTest::OS->new({data_structure => $data});
	my $self = VCL::Module::Provisioning::esxprov->new({data_structure => $data, os => $os});
	$os->set_provisioner($self);
	return $self;
}

1;
