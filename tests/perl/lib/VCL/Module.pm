package VCL::Module;

# SPDX-License-Identifier: Apache-2.0
#
# Stand-in for the base class of vcld's modules: construction, the accessors and the polling loop.

use strict;
use warnings;

use Time::HiRes qw(time sleep);

use VCL::utils;

sub new {
	my ($class, $arguments) = @_;
	my %rest = %$arguments;
	my $data = delete $rest{data_structure};
	return if ref($data) ne 'VCL::DataStructure';
	my $self = bless {%rest, data => $data}, $class;
	return if $self->can('initialize') && !$self->initialize($arguments);
	return $self;
}

sub data            { my ($self) = @_; return $self->{data} }
sub os              { my ($self) = @_; return $self->{os} }
sub mn_os           { my ($self) = @_; return $self->{mn_os} }
sub vmhost_os       { my ($self) = @_; return $self->{vmhost_os} }
sub provisioner     { my ($self) = @_; return $self->{provisioner} }
sub set_os          { my ($self, $os) = @_; $self->{os} = $os; return 1 }
sub set_provisioner { my ($self, $provisioner) = @_; $self->{provisioner} = $provisioner; return 1 }

# true value of the code, 0 after the time; undef counts as "not yet"
sub code_loop_timeout {
	my ($self, $code, $arguments, undef, $total_s, $delay_s) = @_;
	my $end = time + $total_s;
	while (1) {
		my $result = $code->(@$arguments);
		return $result if $result;
		return 0 if time + $delay_s > $end;
		sleep($delay_s);
	}
}

sub DESTROY { return }

1;
