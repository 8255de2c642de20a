#!/bin/bash
# Peers in environments of their own: peers.sh FOLDER makes FOLDER/nncf (NNCF, and ONNX Runtime's own quantiser) and
# FOLDER/modelopt (Model-Optimizer, which wants older onnx and onnxruntime, and torch; without its GPU parts).
# TORCH_INDEX: where pip finds torch without CUDA.
set -euo pipefail
folder=${1:?usage: peers.sh FOLDER}
python=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
mkdir -p "$folder"

"$python" -m venv "$folder/nncf"
"$folder/nncf/bin/pip" install --quiet nncf onnx onnxruntime

"$python" -m venv "$folder/modelopt"
"$folder/modelopt/bin/pip" install --quiet --index-url "$torch_index" torch
"$folder/modelopt/bin/pip" install --quiet 'onnx~=1.21.0' 'onnxruntime~=1.24.2' 'onnxconverter-common~=1.16.0' \
    onnx-graphsurgeon onnxscript onnxslim polygraphy lief cppimport ml_dtypes pydantic tqdm rich safetensors regex \
    pulp scipy psutil ninja packaging omegaconf PyYAML nvidia-ml-py
"$folder/modelopt/bin/pip" install --quiet --no-deps nvidia-modelopt
