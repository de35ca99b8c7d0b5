package VCL::Module::Provisioning::esxprov::Contract;

# SPDX-License-Identifier: Apache-2.0

=head1 NAME

VCL::Module::Provisioning::esxprov::Contract - what both sides of the bus agree on

=head1 DESCRIPTION

The twin of bridge/contract.py and bridge/topology.py: the table of calls, the
load states, the waiting times and the names on the broker. A test holds the
two together.

=cut

use strict;
use warnings;

use Exporter qw(import);

our $VERSION   = '0.1';
our @EXPORT_OK = qw(%CALLS %LOADSTATES %PHASES %OUTCOMES $MESSAGE_VERSION $PROGRESS_INTERVAL_S $SILENCE_S $GRACE_S $MAX_BYTES
	$EXCHANGE $REPLY_EXPIRES_MS $REPLY_MAX_LENGTH $CONTENT_TYPE message_type routing_key reply_queue);

=head1 CONSTANTS

 %CALLS              : call => { lane, kind, deadline_s }. A 'command' changes
                       the world and keeps its event id over the death of its
                       caller, a 'query' is asked and forgotten.
 %LOADSTATES         : names which may go to computerloadlog as they are
 $SILENCE_S          : after so long without a message the event is published
                       again
 $GRACE_S            : so long after the deadline the reply is still awaited
 $REPLY_EXPIRES_MS   : a reply queue which nobody uses is removed
 $MAX_BYTES          : size limit of a message body

=cut

our $MESSAGE_VERSION     = 1;
our $PROGRESS_INTERVAL_S = 30;
our $SILENCE_S           = 120;
our $GRACE_S             = 30;
our $MAX_BYTES           = 256 * 1024;
our $EXCHANGE            = 'esxprov';
our $REPLY_EXPIRES_MS    = 6 * 3600 * 1000;
our $REPLY_MAX_LENGTH    = 2000;
our $CONTENT_TYPE        = 'application/cloudevents+json';

our %CALLS = (
	load                    => {lane => 'slow', kind => 'command', deadline_s => 3600},
	unload                  => {lane => 'slow', kind => 'command', deadline_s => 900},
	capture                 => {lane => 'slow', kind => 'command', deadline_s => 14400},
	retrieve_image          => {lane => 'slow', kind => 'command', deadline_s => 7200},
	post_maintenance_action => {lane => 'slow', kind => 'command', deadline_s => 900},
	node_status             => {lane => 'fast', kind => 'query',   deadline_s => 60},
	does_image_exist        => {lane => 'fast', kind => 'query',   deadline_s => 60},
	get_image_size          => {lane => 'fast', kind => 'query',   deadline_s => 60},
	power_status            => {lane => 'fast', kind => 'query',   deadline_s => 60},
	power_on                => {lane => 'fast', kind => 'command', deadline_s => 300},
	power_off               => {lane => 'fast', kind => 'command', deadline_s => 300},
	power_reset             => {lane => 'fast', kind => 'command', deadline_s => 300},
	place                   => {lane => 'fast', kind => 'query',   deadline_s => 10},
	capacity                => {lane => 'fast', kind => 'query',   deadline_s => 10},
	cancel                  => {lane => 'fast', kind => 'control', deadline_s => 10},
	ping                    => {lane => 'fast', kind => 'control', deadline_s => 10},
);

our %LOADSTATES = map { $_ => 1 } qw(startload transfervm vmsetupconfig startvm info);
our %PHASES     = map { $_ => 1 } qw(requested progressed finished);
our %OUTCOMES   = map { $_ => 1 } qw(ok failed cancelled);

#//////////////////////////////////////////////////////////////////////////////

=head2 message_type

 Parameters  : $call, $phase
 Returns     : string
 Description : 'vcl.load.requested.v1' for ('load', 'requested').

=cut

sub message_type {
	my ($call, $phase) = @_;
	return "vcl.$call.$phase.v$MESSAGE_VERSION";
}

#//////////////////////////////////////////////////////////////////////////////

=head2 routing_key

 Parameters  : $management_node, $call
 Returns     : string
 Description : 'mn1.load': several management nodes may share one broker.

=cut

sub routing_key {
	my ($management_node, $call) = @_;
	return "$management_node.$call";
}

#//////////////////////////////////////////////////////////////////////////////

=head2 reply_queue

 Parameters  : $management_node, $reservation_id
 Returns     : string
 Description : 'vcl.reply.mn1.5678': declared by vcld, and by nobody else.

=cut

sub reply_queue {
	my ($management_node, $reservation_id) = @_;
	return "vcl.reply.$management_node.$reservation_id";
}

1;
