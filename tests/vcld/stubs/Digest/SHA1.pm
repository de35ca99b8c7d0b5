package Digest::SHA1;

# SPDX-License-Identifier: Apache-2.0
# Stand-in: Debian has no package of it; Digest::SHA, in Perl's core, has its functions.

use strict;
use warnings;

use Digest::SHA qw(sha1 sha1_hex sha1_base64);
use Exporter qw(import);

our $VERSION   = '0.0';
our @EXPORT_OK = qw(sha1 sha1_hex sha1_base64);

1;
