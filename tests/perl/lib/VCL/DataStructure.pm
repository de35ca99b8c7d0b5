package VCL::DataStructure;

# SPDX-License-Identifier: Apache-2.0
#
# Stand-in for vcld's data of one reservation, read from the database once, as vcld's parent does before it forks.
# get_<name>(0), set_<name>($value). As in vcld a getter without a value returns an EMPTY LIST, and logs a WARNING
# unless it is called with 0; an unknown name is a WARNING too.

use strict;
use warnings;

use List::Util qw(max);

use VCL::utils;

our $AUTOLOAD;

my $SQL = <<'SQL';
SELECT request.id AS request_id, request.forimaging AS request_forimaging, laststate.name AS request_laststate_name,
  requeststate.name AS request_state_name, reservation.id AS reservation_id, computer.id AS computer_id,
  computer.hostname AS computer_hostname, computer.privateIPaddress AS computer_private_ip_address,
  computer.eth0macaddress AS computer_eth0_mac_address, computer.eth1macaddress AS computer_eth1_mac_address,
  computer.provisioningid AS computer_provisioning_id, computer.vmhostid AS computer_vmhost_id, module.perlpackage AS
  computer_provisioning_module_perl_package, image.id AS image_id, imagerevision.imagename AS image_name,
  imagerevision.id AS imagerevision_id, image.size AS image_size, image.minram AS raw_minram, image.minprocnumber AS
  image_minprocnumber, image.project AS image_project, image.architecture AS image_architecture, OS.name AS image_os_name,
  OS.type AS image_os_type, OS.minram AS image_os_minram, vmhost.id AS vmhost_id, vmhost.vmprofileid AS vmhost_profile_id,
  vmprofile.profilename AS vmhost_profile_name, vmprofile.datastorepath AS vmhost_profile_datastore_path,
  IFNULL(vmprofile.vmpath, vmprofile.datastorepath) AS vmhost_profile_vmpath, vmprofile.repositorypath AS
  vmhost_profile_repository_path, vmprofile.vmdisk AS vmhost_profile_vmdisk, vmprofile.virtualswitch0 AS
  vmhost_profile_virtualswitch0, vmprofile.virtualswitch1 AS vmhost_profile_virtualswitch1, vmprofile.virtualswitch2 AS
  vmhost_profile_virtualswitch2, vmprofile.virtualswitch3 AS vmhost_profile_virtualswitch3, vmprofile.eth0generated AS
  vmhost_profile_eth0generated, vmprofile.eth1generated AS vmhost_profile_eth1generated, managementnode.hostname AS
  management_node_hostname, serverrequest.id AS server_request_id
FROM reservation
  JOIN request ON request.id = reservation.requestid
  JOIN state requeststate ON requeststate.id = request.stateid
  JOIN state laststate ON laststate.id = request.laststateid
  JOIN computer ON computer.id = reservation.computerid
  JOIN provisioning ON provisioning.id = computer.provisioningid
  JOIN module ON module.id = provisioning.moduleid
  JOIN image ON image.id = reservation.imageid
  JOIN imagerevision ON imagerevision.id = reservation.imagerevisionid
  JOIN OS ON OS.id = image.OSid
  JOIN managementnode ON managementnode.id = reservation.managementnodeid
  LEFT JOIN serverrequest ON serverrequest.requestid = request.id
  LEFT JOIN vmhost ON vmhost.id = computer.vmhostid
  LEFT JOIN vmprofile ON vmprofile.id = vmhost.vmprofileid
SQL

# new({reservation_id => N, request_state_name => 'new'}) or new({values => {...}}) without a database
sub new {
	my ($class, $arguments) = @_;
	return bless {reservation_ids => [], %{$arguments->{values}}}, $class if $arguments->{values};
	my ($row) = database_select("$SQL WHERE reservation.id = " . int($arguments->{reservation_id}));
	return if !$row;
	my $self = bless {%$row, imagemeta_sysprep => 1}, $class;
	($self->{computer_short_name}) = split(/\./, $self->{computer_hostname});
	$self->{computer_node_name} = $self->{computer_short_name};
	($self->{management_node_short_name}) = split(/\./, $self->{management_node_hostname});
	# vcld sets the row to pending/<state> and goes on calling it <state>
	$self->{request_state_name} = $self->{request_laststate_name} if $self->{request_state_name} eq 'pending';
	$self->{request_state_name} = $arguments->{request_state_name} if $arguments->{request_state_name};
	my @cluster = database_select("SELECT id FROM reservation WHERE requestid = $row->{request_id} ORDER BY id");
	$self->{reservation_ids} = [map { $_->{id} } @cluster];
	return $self;
}

sub get_reservation_ids { my ($self) = @_; return @{$self->{reservation_ids}} }
sub get_image_minram    { my ($self) = @_; return max($self->{raw_minram}, $self->{image_os_minram}) }

# The argument of this one says the opposite of the others': true for no WARNING.
sub get_computer_private_ip_address {
	my ($self, $suppress_warning) = @_;
	my $cached  = $ENV->{computer_private_ip_address}{$self->{computer_id}};
	my $address = defined($cached) ? $cached : $self->{computer_private_ip_address};
	return $address if defined($address);
	notify($ERRORS{WARNING}, 0, "private IP address of $self->{computer_hostname} is not set in this object") if !$suppress_warning;
	return;
}

sub set_computer_private_ip_address {
	my ($self, $address) = @_;
	if    ($address =~ /null/i)                        { delete $self->{computer_private_ip_address} }
	elsif ($address =~ /\A\d{1,3}(?:\.\d{1,3}){3}\z/)  { $self->{computer_private_ip_address} = $address }
	else  { notify($ERRORS{WARNING}, 0, "not a valid address: '$address'"); return }
	return update_computer_private_ip_address($self->{computer_id}, $address);
}

my %KNOWN = map { $_ => 1 } ($SQL =~ /AS\s+(\w+)/g), qw(
	computer_short_name computer_node_name management_node_short_name imagemeta_sysprep);

sub AUTOLOAD {
	my ($self, $argument) = @_;
	my ($mode, $name) = $AUTOLOAD =~ /::(get|set)_(\w+)\z/ or return;
	if (!$KNOWN{$name}) {
		notify($ERRORS{WARNING}, 0, "unsupported subroutine name: ${mode}_$name");
		return;
	}
	if ($mode eq 'set') {
		$self->{$name} = $argument;
		return 1;
	}
	return $self->{$name} if defined($self->{$name});
	notify($ERRORS{WARNING}, 0, "corresponding data is undefined for get_$name") if !defined($argument) || $argument;
	return;
}

sub DESTROY { return }

1;
