package VCL::Module::Provisioning::esxprov::Spool;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Spool - an event id that outlives its caller

=head1 DESCRIPTION

vcld may kill a state process with SIGKILL and fork another one which makes the
same call again. The event id is the key by which the service knows that this is
the same work, so a command's envelope is stored here before it is published and
removed when the call has ended: with the final reply, or with giving up.

A file that is still there therefore says that a process died waiting. The next
one goes on with that envelope if it asks for the same thing: same call,
computer, request, reservation, request state and image revision, deadline not
over. This cannot be confused with a reinstall: nobody has consumed the reply,
so nobody was given the machine, and work that nobody has seen is as good as new
work. A reinstall after a consumed reply finds no file and gets a new id, as does
one that VCL asks for while a load for the same reservation is unfinished,
because its request state is another.

=cut

use strict;
use warnings;

use Fcntl qw(O_WRONLY O_CREAT O_EXCL);
use File::Path ();

use VCL::Module::Provisioning::esxprov::Envelope qw(encode decode call_of remaining_s);

our $VERSION = '0.1';

#//////////////////////////////////////////////////////////////////////////////

=head2 new

 Parameters  : $directory
 Returns     : object
 Description : The directory is made when it is needed, for our user only.

=cut

sub new {
	my ($class, $directory) = @_;
	return bless {directory => $directory}, $class;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 find

 Parameters  : $envelope
 Returns     : hash reference, undefined if there is none
 Description : The envelope that a process which died has left for the same work.

=cut

sub find {
	my ($self, $envelope) = @_;
	my $path = $self->_path($envelope);
	open(my $file, '<:raw', $path) or return;
	my $octets = do { local $/ = undef; <$file> };
	close($file);
	my $left = eval { local $SIG{__DIE__} = 'DEFAULT'; decode(defined($octets) ? $octets : '') };
	return if !defined($left);
	return if remaining_s($left) <= 0;
	return if _work($left) ne _work($envelope);
	return $left;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 store

 Parameters  : $envelope
 Returns     : true
 Description : Keeps an envelope, in place of what an earlier call has left. Dies
               with a sentence if that is not possible.

=cut

sub store {
	my ($self, $envelope) = @_;
	my $directory = $self->{directory};
	if (!-d $directory) {
		File::Path::make_path($directory, {mode => oct('700'), error => \my $errors});
		die "the spool $directory cannot be made: make it, owned by vcld's user, mode 700\n" if !-d $directory;
	}
	die "others may write to the spool $directory: chmod 700 it\n" if (stat(_))[2] & oct('022');
	my $path      = $self->_path($envelope);
	my $temporary = "$path.$$";
	unlink($temporary);
	my $octets = encode($envelope);
	my $why    = '';
	if (sysopen(my $file, $temporary, O_WRONLY | O_CREAT | O_EXCL, oct('600'))) {
		my $written = syswrite($file, $octets);
		$why = "$!" if !defined($written) || $written != length($octets);
		$why ||= "$!" if !close($file);
		$why ||= "$!" if $why eq '' && !rename($temporary, $path);
		unlink($temporary) if $why ne '';
	}
	else {
		$why = "$!";
	}
	die "the spool file $path cannot be written: $why\n" if $why ne '';
	return 1;
}

#//////////////////////////////////////////////////////////////////////////////

=head2 forget

 Parameters  : $envelope
 Returns     : true
 Description : Removes the file of an ended call.

=cut

sub forget {
	my ($self, $envelope) = @_;
	unlink($self->_path($envelope));
	return 1;
}

sub _path {
	my ($self, $envelope) = @_;
	my ($call) = call_of($envelope);
	my $computer = $envelope->{data}{computer}{id};
	return "$self->{directory}/computer-$computer.$call.json";
}

# What makes two requests the same work, as one text.
sub _work {
	my ($envelope) = @_;
	my $data = $envelope->{data};
	my ($reservation, $computer, $image) = map { ref($data->{$_}) eq 'HASH' ? $data->{$_} : {} } qw(reservation computer image);
	my @parts = (call_of($envelope), $computer->{id}, @$reservation{qw(request_id reservation_id state)}, @$image{qw(revision_id name)});
	return join('|', map { defined($_) ? $_ : '' } @parts);
}

1;
