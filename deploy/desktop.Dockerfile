# Desktop or data-centre GPU. TensorRT's version here is the one that plans must be built with.
# docker build -f deploy/desktop.Dockerfile --build-arg BASE=NVIDIA_TENSORRT_IMAGE:TAG -t sdi .
ARG BASE
FROM ${BASE}
COPY . /src
RUN python3 -m venv --system-site-packages /opt/sdi \
    && /opt/sdi/bin/pip install --no-cache-dir '/src[cpu,opencv,line]' 'cuda-python>=12' && rm -rf /src
ENV PATH=/opt/sdi/bin:$PATH
ENTRYPOINT ["sdi-run"]
