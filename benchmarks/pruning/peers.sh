#!/bin/bash
# torch-pruning in an environment of its own: peers.sh FOLDER makes FOLDER/torch-pruning.
# TORCH_INDEX: where pip finds torch without CUDA.
set -euo pipefail
folder=${1:?usage: peers.sh FOLDER}
python=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
mkdir -p "$folder"

"$python" -m venv "$folder/torch-pruning"
"$folder/torch-pruning/bin/pip" install --quiet --index-url "$torch_index" torch==2.13.0
"$folder/torch-pruning/bin/pip" install --quiet torch-pruning==1.6.1 safetensors numpy
