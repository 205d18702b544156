"""Boards over RPC: what serves on a board, and what reaches it from the host, over TVM's protocol.

On the board: `serve` listens, `session` is one process per connection, `board` its functions, `registration` its entry
at a tracker. On the host: `tracker` and `device` reach it, `model` and `kernels` stand for what runs there, `bench`
times it, `profile` times its layers. Both sides: `addresses`, `message`.
"""
