# Source this before building with the feature `cuda` if CUDA_HOME came from tools/cuda/setup.
CUDA_HOME=${CUDA_HOME:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/target/cuda-home}
export CUDA_HOME
export PATH="$CUDA_HOME/bin:$PATH"          # cudarc asks `nvcc --version` by this name
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} # of candle's own kernels, where no GPU can be asked
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-2}
export NVCC_APPEND_FLAGS=${NVCC_APPEND_FLAGS:---compress-mode=size} # candle's kernels would be 30 MB of the binary
