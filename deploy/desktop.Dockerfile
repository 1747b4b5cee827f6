# Desktop or data-centre GPU. TensorRT's version here is the one that plans must be built with.
# CUDA_VERSION is the image's own, and the CUDA binding follows it.
# docker build -f deploy/desktop.Dockerfile --build-arg BASE=NVIDIA_TENSORRT_IMAGE:TAG -t sdi .
ARG BASE
FROM ${BASE}
COPY . /src
RUN python3 -m venv --system-site-packages /opt/sdi \
    && /opt/sdi/bin/pip install --no-cache-dir '/src[cpu,opencv,line]' "cuda-python>=12.9.1,==${CUDA_VERSION%%.*}.*" && rm -rf /src
ENV PATH=/opt/sdi/bin:$PATH
ENTRYPOINT ["sdi-run"]
