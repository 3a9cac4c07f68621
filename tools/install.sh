#!/bin/sh
# Installs Entracte with every extra that the demo and the tests need: sh tools/install.sh PYTHON VENV
set -eu
python="$1"
venv="$2"
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    missing=""
    for package in libosmesa6 libegl1 libgl1 libusb-1.0-0; do
        dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        echo "== system packages:$missing (software rendering for MuJoCo, USB for librealsense)"
        apt-get update -qq
        apt-get install -y -qq $missing >/dev/null
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "== torch (CPU build where the index offers one)"
"$venv/bin/python" -m pip install --quiet "torch==2.13.0"
extras=sim,trainer,export,vlm,tensorboard,data,cluster,dev
echo "== entracte with extras $extras"
"$venv/bin/python" -m pip install --quiet -e ".[$extras]"
