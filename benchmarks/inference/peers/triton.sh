#!/usr/bin/env bash
# Start the tritonserver that nvidia-pytriton ships (Python backend only): triton.sh ENVIRONMENT WORK HTTP_PORT GRPC_PORT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
environment=$1 work=$2 http=$3 grpc=$4
python=$environment/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
triton=$site/pytriton/tritonserver
backends=$work/triton-backends models=$work/triton-models
if [ ! -x "$backends/python/triton_python_backend_stub" ]; then
  mkdir -p "$backends"
  cp -r "$triton/backends/python" "$backends/"
  cp "$triton/python_backend_stubs/$version/triton_python_backend_stub" "$backends/python/"
fi
mkdir -p "$models/churn/1"
sed "s/45/$COLUMNS/" "$here/triton_model/config.pbtxt" > "$models/churn/config.pbtxt"
cp "$here/triton_model/model.py" "$here/session.py" "$models/churn/1/"
# the stub needs libpython and, on machines without a GPU as well, the CUDA runtime library of the wheel
libpython=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
cudart=$(dirname "$(find "$site" -name 'libcudart-*' | head -1)")
export LD_LIBRARY_PATH=$cudart:$triton/external_libs:$triton/lib:$libpython
export PATH=$environment/bin:$PATH PYTHONPATH=$site:$here
exec "$triton/bin/tritonserver" --model-repository "$models" --backend-directory "$backends" --http-port "$http" \
  --grpc-port "$grpc" --allow-metrics false --http-address 127.0.0.1 --grpc-address 127.0.0.1 --log-verbose 0
