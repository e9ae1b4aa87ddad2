"""The process: wiring and policy; the only package that knows both the kernel bridge and the documents."""
