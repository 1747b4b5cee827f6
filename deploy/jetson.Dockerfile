# Jetson Orin with JetPack 6, on NVIDIA's l4t-jetpack image (tag r36.4.0: Ubuntu 22.04, CUDA 12.6, TensorRT 10.3).
# Not built or run where it was written. On the Jetson, whose own plans it runs:
# docker build -f deploy/jetson.Dockerfile --build-arg BASE=NVIDIA_L4T_JETPACK_IMAGE:r36.4.0 -t sdi .
ARG BASE
FROM ${BASE}
# Ubuntu's OpenCV has GStreamer, pip's has not; NVIDIA's plugins for CSI cameras are mounted in by its container runtime.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3-venv python3-libnvinfer python3-opencv \
        gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv --system-site-packages /opt/sdi \
    && /opt/sdi/bin/pip install --no-cache-dir '/src[jetson6,line]' && rm -rf /src
ENV PATH=/opt/sdi/bin:$PATH
ENTRYPOINT ["sdi-run"]
