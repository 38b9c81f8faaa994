# liver_pipeline on a CPU: not as root, weights inside, no network when it runs. Linted with hadolint, not built here.
#
#   docker build -t liver-pipeline .
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/data" liver-pipeline predict default /data/scan.nii.gz /data/mask.nii.gz
FROM python:3.11-slim AS build
COPY . /src
WORKDIR /src
# --build-arg TORCH_INDEX=URL: PyTorch's own index of builds without CUDA, which makes the image a fraction of the size
ARG TORCH_INDEX=""
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 pipeline
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /data
ENTRYPOINT ["liver-pipeline"]
CMD ["--help"]
