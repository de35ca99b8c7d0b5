package VCL::Module::Provisioning::esxprov::Config;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Config - the shim's part of esxprov.conf

=head1 DESCRIPTION

Reads the INI file that the esxprov service reads (esxprov/config.py), by the
same rules: /etc/vcl/esxprov.conf or the file which the environment variable
ESXPROV_CONF names, overridden by ESXPROV_<SECTION>_<KEY>. Used are

 [service] management_node
 [vcld]    url, password_file, ca_file, spool

Without [vcld] url the settings of [broker] are taken. The service checks the
whole file ('esxprov check-config'); here only what is used is checked.

=cut

use strict;
use warnings;

our $VERSION = '0.1';

my $DEFAULT_PATH  = '/etc/vcl/esxprov.conf';
my $DEFAULT_SPOOL = '/var/spool/esxprov';

my %KEYS = (
	service => [qw(management_node)],
	vcld    => [qw(url password_file ca_file spool)],
	broker  => [qw(url password_file ca_file)],
);

#//////////////////////////////////////////////////////////////////////////////

=head2 load

 Parameters  : none
 Returns     : hash reference
 Description : Keys: path, management_node (may be undefined), host, port, user,
               password, vhost, tls (boolean), ca_file (may be undefined), spool.
               Dies with one sentence that names file and key.

=cut

sub load {
	my $path   = length($ENV{ESXPROV_CONF} || '') ? $ENV{ESXPROV_CONF} : $DEFAULT_PATH;
	my $values = _read_file($path);
	for my $section (keys %KEYS) {
		for my $key (@{$KEYS{$section}}) {
			my $variable = 'ESXPROV_' . uc("${section}_$key");
			$values->{$section}{$key} = $ENV{$variable} if defined($ENV{$variable});
		}
	}
	my $section  = length(_value($values, 'vcld', 'url')) ? 'vcld' : 'broker';
	my %broker   = _broker($path, $section, _value($values, $section, 'url'));
	my $ca_file  = _value($values, $section, 'ca_file');
	my $password = _password($path, $section, _value($values, $section, 'password_file'));
	die "$path: [$section] ca_file names $ca_file, which is not a file\n" if length($ca_file) && !-f $ca_file;
	my $node  = _value($values, 'service', 'management_node');
	my $spool = _value($values, 'vcld',    'spool');
	return {
		%broker,
		path            => $path,
		management_node => length($node) ? $node : undef,
		password        => $password,
		ca_file         => length($ca_file) ? $ca_file : undef,
		spool           => length($spool) ? $spool : $DEFAULT_SPOOL,
	};
}

#//////////////////////////////////////////////////////////////////////////////

=head2 _read_file

 Parameters  : $path
 Returns     : hash reference { section => { key => value } }
 Description : As Python's configparser reads it: a value ends at ' #', and a line
               that is indented deeper than its key goes on with the value.

=cut

sub _read_file {
	my ($path) = @_;
	open(my $file, '<', $path) or die "$path cannot be read ($!): write it, or name another file in ESXPROV_CONF\n";
	my ($section, $key, $key_indent, %values) = ('', undef, 0);
	while (my $line = <$file>) {
		$line =~ s/\r?\n\z//;
		next if $line =~ /^\s*(?:[#;]|$)/;
		$line =~ s/\s+#.*//;
		my ($indent) = $line =~ /^(\s*)/;
		if (defined($key) && length($indent) > $key_indent) {
			$line =~ s/^\s+|\s+$//g;
			$values{$section}{$key} .= "\n$line";
		}
		elsif ($line =~ /^\s*\[([^\]]+)\]\s*$/) {
			($section, $key) = (join(' ', split(' ', $1)), undef);
		}
		elsif ($line =~ /^\s*([^=]+?)\s*=\s*(.*?)\s*$/) {
			($key, $key_indent) = (lc($1), length($indent));
			$values{$section}{$key} = $2;
		}
		else {
			my $number = $.;
			close($file);
			die "$path is not an INI file: line $number is neither a [section] nor 'key = value'\n";
		}
	}
	close($file);
	return \%values;
}

sub _value {
	my ($values, $section, $key) = @_;
	my $value = $values->{$section}{$key};
	return defined($value) ? $value : '';
}

sub _password {
	my ($path, $section, $file) = @_;
	die "$path: [$section] password_file is missing\n" if !length($file);
	my $mode = (stat($file))[2];
	die "$path: [$section] password_file names $file, which is not a file\n" if !defined($mode) || !-f _;
	die "$path: [$section] password_file names $file, which everybody may read: chmod 640 it\n" if $mode & oct('007');
	open(my $in, '<:raw', $file) or die "$path: [$section] password_file names $file, which cannot be read: $!\n";
	my $password = do { local $/ = undef; <$in> };
	close($in);
	$password = '' if !defined($password);
	$password =~ s/[\r\n]+\z//;
	return $password;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 _broker

 Parameters  : $path, $section, $url
 Returns     : hash with tls, user, host, port, vhost
 Description : Takes a URL like amqps://vcld@broker:5671/vhost apart.

=cut

sub _broker {
	my ($path, $section, $url) = @_;
	die "$path: [$section] url is missing\n" if !length($url);
	(my $shown = $url) =~ s{(://[^/\@:]*):[^/\@]*\@}{$1:***\@};
	my ($scheme, $user, $secret, $host, $port, $vhost)
		= $url =~ m{\A(amqps?)://([^/:\@]+)(:[^/\@]*)?\@(\[[0-9A-Fa-f:.]+\]|[^/:\@\[\]]+)(?::(\d+))?(?:/([^/?#]*))?\z};
	die "$path: [$section] url is '$shown', expected amqp://user\@host:5672/ or amqps://user\@host:5671/\n" if !defined($host);
	die "$path: [$section] url holds a password: put it into the file that password_file names\n" if defined($secret);
	$host =~ s/\A\[|\]\z//g;
	for my $part ($user, $vhost) {
		$part =~ s/%([0-9A-Fa-f]{2})/chr(hex($1))/ge if defined($part);
	}
	my $tls = $scheme eq 'amqps' ? 1 : 0;
	die "$path: [$section] url cannot be used: amqp://$host would send the password in the clear: use amqps://, or a broker on "
		. "127.0.0.1, ::1 or localhost\n" if !$tls && $host !~ /\A(?:localhost|127(?:\.\d{1,3}){3}|::1)\z/i;
	return (
		tls   => $tls,
		user  => $user,
		host  => $host,
		port  => defined($port) ? $port : $tls ? 5671 : 5672,
		vhost => defined($vhost) && length($vhost) ? $vhost : '/',
	);
}

1;
