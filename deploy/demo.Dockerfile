# A plain CPU, no camera: drawn strip with its defects marked, or pictures of your own.
#   docker build -f deploy/demo.Dockerfile -t sdi-demo .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/out:/out" sdi-demo
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/pictures:/pictures:ro" -v "$PWD/out:/out" sdi-demo \
#          --source /pictures --overlay /out/overlay
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir '/src[cpu,line]' && rm -rf /src \
    && mkdir /out && chmod 777 /out
WORKDIR /out
USER 65534:65534
ENTRYPOINT ["sdi-run"]
CMD ["--source", "demo", "--overlay", "/out/overlay", "--masks", "/out/masks", "--jsonl", "/out/results.jsonl"]
