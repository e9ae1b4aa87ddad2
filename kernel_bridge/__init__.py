"""One Jupyter kernel: ZMQ in, typed messages out; commands in, ZMQ out."""
