"""Where the time of a compiled network goes, layer by layer, and how much of it the machine could save.

`passes` times regions in the order in which they run, `machine` measures clock and bandwidths (with the code that
`probes` compiles), `caches` reads the sizes of caches, `bounds` puts them together with the peaks of a target,
`alternatives` tells what else could have run (`candidates` times it), and `profile` makes the report. `here` does it on
this machine; `lqcompile.rpc.profile` does on a board.
"""
