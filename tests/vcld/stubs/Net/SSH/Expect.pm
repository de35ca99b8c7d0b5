package Net::SSH::Expect;

# SPDX-License-Identifier: Apache-2.0
# Stand-in: Debian has no package of it; vcld loads it, but uses it only when started with -exn.

use strict;
use warnings;

our $VERSION = '0.0';

1;
