"""What is needed of the CUDA driver, through ctypes on libcuda.so.1: no package, no crash without a driver."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .failure import DEVICE, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARY = "libcuda.so.1"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream does not wait for it
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 128
_FUNCTIONS: dict[str, Sequence[Any]] = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


class CudaError(RuntimeError):
    """A call of the driver that failed: its name, the error's number and text."""


class Gpu(NamedTuple):
    """The GPU that engines are built on and run on: the first that the driver shows.

    Attributes:
        name: As the driver says it.
        compute_capability: Such as ``8.7``.
        driver: The newest CUDA that the driver supports, such as ``12.6``.
    """

    name: str
    compute_capability: str
    driver: str


_loaded: list[Any] = []


def driver() -> Any:  # noqa: ANN401 - a ctypes library
    """The initialised driver library.

    Raises:
        Failure: There is none, or it does not answer (6).
    """
    if _loaded:
        return _loaded[0]
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), c_int
        code = int(library.cuInit(0))
    except (OSError, AttributeError) as error:
        raise _no_driver(" ".join(str(error).split())[:200]) from error
    if code:
        raise _no_driver(f"cuInit answers {code}")
    _loaded.append(library)
    return library


def _no_driver(why: str) -> Failure:
    return Failure(
        DEVICE, "no NVIDIA driver answers here", why, "use the device that has the GPU, as a user who may use it"
    )


def call(name: str, *arguments: Any) -> None:  # noqa: ANN401 - whatever the driver's function takes
    """Calls the driver.

    Raises:
        CudaError: It answers with an error.
    """
    code = int(getattr(driver(), name)(*arguments))
    if code:
        text = c_char_p()
        driver().cuGetErrorString(code, byref(text))
        raise CudaError("{}: CUDA error {} ({})".format(name, code, (text.value or b"?").decode("utf-8", "replace")))


def gpu() -> Gpu:
    """The first GPU; asks the driver only, no context is made.

    Raises:
        Failure: No driver answers, or it shows no GPU (6).
    """
    count, device, version = c_int(), c_int(), c_int()
    library = driver()
    if library.cuDeviceGetCount(byref(count)) or not count.value:
        raise _no_driver("it shows no GPU (CUDA_VISIBLE_DEVICES, or the user's groups, may hide it)")
    call("cuDeviceGet", byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    call("cuDeviceGetName", name, _NAME_BYTES, device.value)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        value = c_int()
        call("cuDeviceGetAttribute", byref(value), attribute, device.value)
        numbers.append(value.value)
    call("cuDriverGetVersion", byref(version))
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability="{}.{}".format(*numbers),
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


class Context:
    """The primary context of the first GPU, which TensorRT uses too; held until closed."""

    def __init__(self) -> None:
        self._device, self._handle = c_int(), c_void_p()
        call("cuDeviceGet", byref(self._device), 0)
        call("cuDevicePrimaryCtxRetain", byref(self._handle), self._device.value)
        self.use()

    def use(self) -> None:
        """Makes it current in the calling thread."""
        call("cuCtxSetCurrent", self._handle)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        free, total = c_size_t(), c_size_t()
        call("cuMemGetInfo_v2", byref(free), byref(total))
        return int(free.value)

    def close(self) -> None:
        """Gives it back."""
        call("cuDevicePrimaryCtxRelease_v2", self._device.value)


class Stream:
    """A stream of its own, which does not wait for the default stream."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        call("cuStreamCreate", byref(self.handle), _NON_BLOCKING)

    def wait(self) -> None:
        """Returns when everything in it is done."""
        call("cuStreamSynchronize", self.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What ``enqueue`` puts into the stream, as a graph; nothing of it runs.

        Raises:
            CudaError: It does something that cannot be captured.
        """
        graph, executable = c_void_p(), c_void_p()
        call("cuStreamBeginCapture_v2", self.handle, _THREAD_LOCAL)
        try:
            try:
                enqueue()
            finally:  # an open capture would make every later call on this stream fail
                code = int(driver().cuStreamEndCapture(self.handle, byref(graph)))
            if code or not graph.value:
                raise CudaError(f"cuStreamEndCapture: CUDA error {code}")
            call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            if graph.value:
                call("cuGraphDestroy", graph)
        return Graph(executable, self)

    def close(self) -> None:
        """Frees it."""
        call("cuStreamDestroy_v2", self.handle)


class Graph:
    """A captured piece of work on its stream."""

    def __init__(self, handle: c_void_p, stream: Stream) -> None:
        self._handle, self._stream = handle, stream

    def launch(self) -> None:
        """Puts it into the stream again."""
        call("cuGraphLaunch", self._handle, self._stream.handle)

    def close(self) -> None:
        """Frees it."""
        call("cuGraphExecDestroy", self._handle)


class Event:
    """A mark in a stream."""

    def __init__(self) -> None:
        self._handle = c_void_p()
        call("cuEventCreate", byref(self._handle), 0)

    def record(self, stream: Stream) -> None:
        """Puts the mark into the stream."""
        call("cuEventRecord", self._handle, stream.handle)

    def wait(self) -> None:
        """Returns when the stream has come to it."""
        call("cuEventSynchronize", self._handle)

    def ns_since(self, earlier: Event) -> int:
        """Nanoseconds from another mark to this one, as the GPU saw them (its clock ticks every 0.5 us or so)."""
        milliseconds = c_float()
        call("cuEventElapsedTime", byref(milliseconds), earlier._handle, self._handle)
        return round(milliseconds.value * 1e6)

    def close(self) -> None:
        """Frees it."""
        call("cuEventDestroy_v2", self._handle)


class DeviceMemory:
    """Memory of the GPU."""

    def __init__(self, size_bytes: int) -> None:
        self._address = c_uint64()
        call("cuMemAlloc_v2", byref(self._address), max(size_bytes, 1))
        self.address = int(self._address.value)

    def close(self) -> None:
        """Frees it."""
        call("cuMemFree_v2", self._address)


class PinnedArray:
    """An array in host memory that the GPU copies from and to by itself.

    Attributes:
        array: The memory as an array; not to be used once it is closed.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        count = int(np.prod(shape, dtype=np.int64))
        self.bytes = count * dtype.itemsize
        self._address = c_void_p()
        call("cuMemHostAlloc", byref(self._address), max(self.bytes, 1), 0)
        block: Any = (ctypes.c_char * max(self.bytes, 1)).from_address(int(self._address.value or 0))
        self.array: np.ndarray = np.frombuffer(block, dtype=dtype, count=count).reshape(tuple(shape))

    def to_device(self, memory: DeviceMemory, stream: Stream) -> None:
        """Copies to the GPU, in the stream's turn."""
        if self.bytes:
            call("cuMemcpyHtoDAsync_v2", memory.address, self._address, self.bytes, stream.handle)

    def from_device(self, memory: DeviceMemory, stream: Stream) -> None:
        """Copies from the GPU, in the stream's turn."""
        if self.bytes:
            call("cuMemcpyDtoHAsync_v2", self._address, memory.address, self.bytes, stream.handle)

    def close(self) -> None:
        """Frees it."""
        call("cuMemFreeHost", self._address)
