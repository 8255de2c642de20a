"""ONNX Runtime's execution providers: where to get each, how a session is told of them, and whether it uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .failure import DEVICE, Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CPU = "CPUExecutionProvider"

# https://onnxruntime.ai/docs/execution-providers/ (one page a provider, section "Install") and
# https://onnxruntime.ai/docs/install/ : packages that hold each of them.
WHERE: Mapping[str, str] = {
    CPU: "pip install onnxruntime",
    "XnnpackExecutionProvider": "build onnxruntime with --use_xnnpack --build_wheel (no wheel on PyPI has it), or take "
    "the AAR com.microsoft.onnxruntime:onnxruntime-android",
    "CUDAExecutionProvider": "pip install onnxruntime-gpu, with the CUDA and cuDNN that it was built for",
    "TensorrtExecutionProvider": "pip install onnxruntime-gpu, with CUDA and the TensorRT that it was built for",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
    "QNNExecutionProvider": "pip install onnxruntime-qnn (Windows and Linux on Arm), or take the AAR "
    "com.microsoft.onnxruntime:onnxruntime-android-qnn",
    "CoreMLExecutionProvider": "pip install onnxruntime on macOS, or take the pod onnxruntime-objc on iOS",
    "NnapiExecutionProvider": "take the AAR com.microsoft.onnxruntime:onnxruntime-android (Android only)",
}


def listed(options: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The providers of an engine.json's options in their order, each with its own options."""
    own = options.get("provider_options", {})
    return [(name, dict(own.get(name, {}))) for name in options["providers"]]


def check_built_in(wanted: Sequence[str], available: Sequence[str]) -> None:
    """Checks that this build of the runtime holds every provider that the engine is for.

    Raises:
        Failure: One is missing (6); the remedy names the package that holds it.
    """
    missing = [name for name in wanted if name not in available]
    if missing:
        raise Failure(
            DEVICE,
            "this onnxruntime has no {}".format(", ".join(missing)),
            "it has {}".format(", ".join(available)),
            "{}; or build the bundle for another target".format(
                "; ".join(WHERE.get(name, "install an onnxruntime with " + name) for name in missing)
            ),
        )


def check_in_use(wanted: Sequence[str], used: Sequence[str]) -> None:
    """Checks that an open session really holds every provider: the runtime drops one that it cannot start.

    Raises:
        Failure: One was dropped (6).
    """
    dropped = [name for name in wanted if name not in used]
    if dropped:
        raise Failure(
            DEVICE,
            "onnxruntime could not start {}".format(", ".join(dropped)),
            "it would run on {} instead, without a word".format(", ".join(used)),
            "; ".join(
                "check the driver and libraries that it needs: " + WHERE.get(name, "see its documentation")
                for name in dropped
            ),
        )
