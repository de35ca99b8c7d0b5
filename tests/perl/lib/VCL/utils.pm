package VCL::utils;

# SPDX-License-Identifier: Apache-2.0
#
# Stand-in for the functions of vcld which the shim calls, on a real VCL database. Written for the tests from what
# those functions are documented to do, traps included: the caches in $ENV, is_request_deleted() saying yes when
# nothing is known, a WARNING for each unset value.
#
# The database comes from the environment: VCL_DB_SOCKET, VCL_DB_NAME (vcl), VCL_DB_USER (vcl), VCL_DB_PASSWORD (vcl).
# Log lines go to the file $VCL_LOG, else to standard error: "LEVEL|text".

use strict;
use warnings;

use DBI;
use Exporter qw(import);
use Socket ();

our %ERRORS = (OK => 0, WARNING => 1, CRITICAL => 2, UNKNOWN => 3, DEPENDENT => 4, MAILMASTERS => 5, DEBUG => 6);
my %LEVEL = reverse %ERRORS;

our @EXPORT = qw(%ERRORS notify database_select database_execute insertloadlog is_request_deleted update_computer_imagename
	update_currentimage update_computer_private_ip_address update_computer_vmhost_id switch_vmhost_id update_computer_state
	get_computer_current_private_ip_address determine_remote_connection_target);

sub notify {
	my ($level, undef, $text) = @_;
	$text =~ s/\s+/ /g;
	my $line = "$LEVEL{$level}|$text\n";
	if (!$ENV{VCL_LOG}) {
		print STDERR $line;
		return;
	}
	open(my $log, '>>', $ENV{VCL_LOG}) or return;
	print {$log} $line;
	close($log);
	return;
}

sub _handle {
	our $handle;
	return $handle if $handle && $handle->ping;
	my ($name, $user, $password) = map { defined($ENV{$_}) ? $ENV{$_} : 'vcl' } qw(VCL_DB_NAME VCL_DB_USER VCL_DB_PASSWORD);
	return if !$ENV{VCL_DB_SOCKET};
	$handle = DBI->connect("dbi:mysql:$name;mysql_socket=$ENV{VCL_DB_SOCKET}", $user, $password, {PrintError => 0, RaiseError => 0});
	notify($ERRORS{WARNING}, 0, 'no database: ' . DBI::errstr()) if !$handle;
	return $handle;
}

sub database_select {
	my ($sql) = @_;
	my $handle = _handle() or return;
	my $rows = $handle->selectall_arrayref($sql, {Slice => {}});
	notify($ERRORS{WARNING}, 0, "$sql: " . $handle->errstr) if !$rows;
	return $rows ? @$rows : ();
}

sub database_execute {
	my ($sql) = @_;
	my $handle = _handle() or return;
	my $done = $handle->do($sql);
	notify($ERRORS{WARNING}, 0, "$sql: " . $handle->errstr) if !defined($done);
	return $done;
}

sub insertloadlog {
	my ($reservation_id, $computer_id, $name, $text) = @_;
	my $quoted = quotemeta($text);
	my $state  = "(SELECT id FROM computerloadstate WHERE loadstatename = '$name')";
	return database_execute('INSERT INTO computerloadlog (reservationid, computerid, loadstateid, timestamp, additionalinfo)'
		. " VALUES ($reservation_id, $computer_id, $state, NOW(), '$quoted')") ? 1 : undef;
}

sub is_request_deleted {
	my ($request_id) = @_;
	my ($row) = database_select("SELECT s.name AS state, l.name AS last FROM request r JOIN state s ON s.id = r.stateid"
		. " JOIN state l ON l.id = r.laststateid WHERE r.id = $request_id");
	return 1 if !$row;
	return "$row->{state} $row->{last}" =~ /deleted/ ? 1 : 0;
}

sub update_currentimage {
	my ($computer_id, $image_id, $revision_id) = @_;
	my $image = "currentimageid = $image_id, imagerevisionid = $revision_id";
	return database_execute("UPDATE computer SET $image WHERE id = $computer_id") ? 1 : 0;
}

sub update_computer_imagename {
	my ($computer_id, $image_name) = @_;
	my $quoted = quotemeta($image_name);
	my ($row) = database_select("SELECT id, imageid FROM imagerevision WHERE imagename = '$quoted'");
	return 0 if !$row;
	return update_currentimage($computer_id, $row->{imageid}, $row->{id});
}

sub update_computer_state {
	my ($computer_id, $state) = @_;
	my $state_id = "(SELECT id FROM state WHERE name = '$state')";
	return database_execute("UPDATE computer SET stateid = $state_id WHERE id = $computer_id") ? 1 : undef;
}

sub update_computer_private_ip_address {
	my ($computer_id, $address) = @_;
	delete $ENV->{computer_private_ip_address}{$computer_id};
	my $value = $address =~ /null/i ? 'NULL' : "'$address'";
	database_execute("UPDATE computer SET privateIPaddress = $value WHERE id = $computer_id AND deleted = 0") or return;
	$ENV->{computer_private_ip_address}{$computer_id} = $address if $value ne 'NULL';
	return 1;
}

sub update_computer_vmhost_id {
	my ($computer_id, $vmhost_id) = @_;
	return database_execute("UPDATE computer SET vmhostid = '$vmhost_id' WHERE id = $computer_id") ? 1 : undef;
}

sub switch_vmhost_id {
	my ($computer_id, $vmhost_id) = @_;
	return database_execute("UPDATE computer SET vmhostid = $vmhost_id WHERE id = $computer_id") ? 1 : 0;
}

sub get_computer_current_private_ip_address {
	my ($name) = @_;
	my ($row) = database_select("SELECT id, privateIPaddress FROM computer WHERE deleted = 0 AND (id = '$name' OR hostname = '$name'"
		. " OR hostname LIKE '$name.%')");
	return if !$row;
	my $cached = $ENV->{computer_private_ip_address}{$row->{id}};
	return defined($cached) ? $cached : $row->{privateIPaddress};
}

sub determine_remote_connection_target {
	my ($name, $no_cache) = @_;
	my $cached = $ENV->{remote_connection_target}{$name};
	return $cached if !$no_cache && defined($cached);
	my $address = get_computer_current_private_ip_address($name);
	if (!$address) {
		my $packed = gethostbyname($name);
		$address = defined($packed) ? Socket::inet_ntoa($packed) : undef;
	}
	notify($ERRORS{WARNING}, 0, "no address is known for $name") if !defined($address);
	return $ENV->{remote_connection_target}{$name} = defined($address) ? $address : $name;
}

1;
