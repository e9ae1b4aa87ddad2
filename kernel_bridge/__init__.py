"""One Jupyter kernel: ZMQ in, typed messages out; commands in, ZMQ out."""

from kernel_bridge.bridge import KernelExit, KernelSink, SinkFailed, run_kernel
from kernel_bridge.kernel import Kernel, KernelGone, KernelStatistics, KernelUnread
from kernel_bridge.kernelspecs import KernelSpec, NoSuchKernel, find_kernelspec, list_kernelspecs
from kernel_bridge.launcher import KernelLaunchFailed

__all__ = [
    "Kernel",
    "KernelExit",
    "KernelGone",
    "KernelLaunchFailed",
    "KernelSink",
    "KernelSpec",
    "KernelStatistics",
    "KernelUnread",
    "NoSuchKernel",
    "SinkFailed",
    "find_kernelspec",
    "list_kernelspecs",
    "run_kernel",
]
