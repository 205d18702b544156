#!/bin/sh
# Make this board available: the options are those of 'lqcompile serve'.
exec "$(dirname "$(readlink -f "$0")")/lqcompile" serve "$@"
