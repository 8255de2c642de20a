"""Compiled plans: native code runs only when it is ours, signed for us, or named by its hash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipeline.bundling.manifest import MANIFEST_NAME, read_manifest, write_manifest
from pipeline.bundling.signature import signature_path
from pipeline.bundling.trust import TRUSTED, check_trusted
from pipeline.bundling.verify import sign_bundle, verify_bundle
from pipeline.store import Store
from targets.errors import DeviceError, EdgepressError, RefusedError
from targets.files import sha256_file


@pytest.fixture
def plan(bundle: Path) -> Path:
    """A bundle whose engine says that it is a TensorRT plan."""
    spec = json.loads((bundle / "engine.json").read_text())
    (bundle / "engine.json").write_text(json.dumps({**spec, "engine": "tensorrt-rtx", "runtime": "tensorrt_rtx"}))
    document: dict[str, Any] = json.loads((bundle / MANIFEST_NAME).read_text())
    fields = {name: value for name, value in document.items() if name not in {"files", "manifest_sha256", "schema"}}
    write_manifest(bundle, fields)
    return bundle


def _check(plan: Path, **options: Any) -> None:  # noqa: ANN401
    check_trusted(plan, read_manifest(plan / MANIFEST_NAME), **options)


def test_a_strangers_plan_is_refused_before_it_runs(plan: Path) -> None:
    """Promise S6: exit 4, the reason, and the three ways out; only re-hashing it is allowed."""
    sha256 = read_manifest(plan / MANIFEST_NAME).engine_sha256
    with pytest.raises(RefusedError, match="was not built here") as caught:
        verify_bundle(plan)
    assert f"{TRUSTED}={sha256}" in caught.value.fix
    assert "--key" in caught.value.fix
    assert verify_bundle(plan, run_engine=False).engine_ok is None


def test_it_may_be_trusted_by_hash(plan: Path) -> None:
    """Promise S6: the very hash, by option or environment; any other one trusts nothing."""
    sha256 = read_manifest(plan / MANIFEST_NAME).engine_sha256
    _check(plan, trusted=[sha256])
    _check(plan, environ={TRUSTED: f"{'0' * 64},{sha256.upper()}"})
    for environ in ({TRUSTED: "0" * 64}, {TRUSTED: ""}, {TRUSTED: "*"}):
        with pytest.raises(RefusedError, match="was not built here"):
            _check(plan, environ=environ)


def test_what_this_cache_built_is_trusted(plan: Path, tmp_path: Path) -> None:
    """Promise S6: a plan in our own store runs; a store that others can write to vouches for nothing."""
    store, out = Store(tmp_path / "cache"), tmp_path / "out"
    out.mkdir()
    (out / "engine.plan").write_bytes((plan / "engine.onnx").read_bytes())
    store.publish(out, "a" * 64, stage="build", meta={})
    _check(plan, environ={"EDGEPRESS_CACHE": str(store.root)})
    store.root.chmod(0o777)
    with pytest.raises(RefusedError, match="was not built here"):
        _check(plan, environ={"EDGEPRESS_CACHE": str(store.root)})


def test_a_signature_that_was_asked_for_vouches(plan: Path, tmp_path: Path) -> None:
    """Promise S6: who trusts a key trusts what it signed: the plan gets as far as its runtime, which is not here."""
    key, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    secret = Ed25519PrivateKey.generate()
    os.close(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600))
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sign_bundle(plan, key, signature_path(plan))
    with pytest.raises(EdgepressError) as caught:
        verify_bundle(plan, key=public)
    assert "was not built here" not in str(caught.value)
    assert not isinstance(caught.value, RefusedError) or isinstance(caught.value, DeviceError)


def test_what_is_no_code_needs_no_trust(bundle: Path) -> None:
    """A bundle for ONNX Runtime, and one that is built on the device, are data."""
    _check(bundle, environ={})


def _rewritten(bundle: Path, **changes: Any) -> Path:  # noqa: ANN401
    spec = json.loads((bundle / "engine.json").read_text())
    spec["options"] |= changes
    spec["sha256"] = sha256_file(bundle / spec["file"])
    (bundle / "engine.json").write_text(json.dumps(spec))
    document: dict[str, Any] = json.loads((bundle / MANIFEST_NAME).read_text()) | {"engine_sha256": spec["sha256"]}
    write_manifest(bundle, {k: v for k, v in document.items() if k not in {"files", "manifest_sha256", "schema"}})
    return bundle


@pytest.mark.parametrize(
    ("provider", "key", "value", "refused"),
    [
        ("TensorrtExecutionProvider", "trt_extra_plugin_lib_paths", "evil.so", True),
        ("TensorrtExecutionProvider", "trt_engine_cache_path", "here", True),
        ("QNNExecutionProvider", "backend_path", "./evil.so", True),
        ("QNNExecutionProvider", "backend_path", "golden.npz", True),
        ("QNNExecutionProvider", "htp_performance_mode", "../burst", True),
        ("OpenVINOExecutionProvider", "load_config", "x.json", True),
        ("QNNExecutionProvider", "backend_path", "libQnnHtp.so", False),
        ("QNNExecutionProvider", "htp_performance_mode", "burst", False),
        ("TensorrtExecutionProvider", "trt_fp16_enable", "1", False),
    ],
)
def test_options_that_load_a_file_are_code(bundle: Path, provider: str, key: str, value: str, refused: bool) -> None:  # noqa: FBT001
    """Promise S6: a stranger's bundle cannot make a provider load a library, of its own or of this machine."""
    bundle = _rewritten(bundle, providers=[provider], provider_options={provider: {key: value}})
    if not refused:
        _check(bundle, environ={})
        return
    with pytest.raises(RefusedError, match=f"{key!r} makes {provider} load a file"):
        _check(bundle, environ={})
    with pytest.raises(RefusedError):
        _check(bundle, environ={TRUSTED: read_manifest(bundle / MANIFEST_NAME).engine_sha256})
    _check(bundle, environ={TRUSTED: sha256_file(bundle / MANIFEST_NAME)})


def test_a_compiled_engine_inside_a_model_is_code(bundle: Path) -> None:
    """Promise S6: a node that holds somebody's compiled engine is refused, whichever provider would run it."""
    engine = bundle / json.loads((bundle / "engine.json").read_text())["file"]
    engine.write_bytes(b"\0" * ((1 << 20) - 4) + b"EPContext" + b"\0" * 9)
    with pytest.raises(RefusedError, match="compiled elsewhere"):
        _check(_rewritten(bundle), environ={})


def test_only_engines_of_the_cache_are_trusted(plan: Path, tmp_path: Path) -> None:
    """Promise S6: that a file went through the cache as something else does not make it an engine that was built."""
    store, out = Store(tmp_path / "cache"), tmp_path / "out"
    out.mkdir()
    (out / "any.bin").write_bytes((plan / "engine.onnx").read_bytes())
    store.publish(out, "a" * 64, stage="data", meta={})
    with pytest.raises(RefusedError, match="was not built here"):
        _check(plan, environ={"EDGEPRESS_CACHE": str(store.root)})


def test_our_own_engine_under_another_engine_json_is_not_ours(bundle: Path, tmp_path: Path) -> None:
    """Promise S6: an engine that this cache built, sent back with an option that loads a library, is refused."""
    store, out = Store(tmp_path / "cache"), tmp_path / "out"
    environ = {"EDGEPRESS_CACHE": str(store.root)}
    bundle = _rewritten(bundle, provider_options={"QNNExecutionProvider": {"backend_path": "./evil.so"}})
    out.mkdir()
    (out / "engine.onnx").write_bytes((bundle / "engine.onnx").read_bytes())
    store.publish(out, "a" * 64, stage="build:int8", meta={})
    with pytest.raises(RefusedError, match="backend_path"):
        _check(bundle, environ=environ)
    (out / MANIFEST_NAME).write_bytes((bundle / MANIFEST_NAME).read_bytes())
    store.publish(out, "b" * 64, stage="bundle", meta={})
    _check(bundle, environ=environ)
