# The command cag-uda in a container, for CPUs or for NVIDIA GPUs:
#   docker build -t cag-uda .
#   docker build -t cag-uda:cuda --build-arg DEVICE=cuda .
#   docker run --rm -v "$PWD":/workspace cag-uda adapt recipe.toml --out run
#   docker run --rm --gpus all --shm-size 8g -v "$PWD":/workspace cag-uda:cuda adapt recipe.toml --out run
FROM python:3.12-slim

# cpu: torch without CUDA, a tenth of the size. cuda: torch as it comes by pip, which brings CUDA along.
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# torch first: this layer stays when the code changes.
COPY constraints.txt /src/
RUN if [ "$DEVICE" = cpu ]; then \
        pip install torch -c /src/constraints.txt --index-url https://download.pytorch.org/whl/cpu; \
    else \
        pip install torch -c /src/constraints.txt; \
    fi
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install "/src[pretrained,export]" -c /src/constraints.txt

# Data, recipes and runs are mounted here; rendered scenes and downloaded weights stay with them.
WORKDIR /workspace
ENV CAG_UDA_CACHE=/workspace/.cache/cag-uda HF_HOME=/workspace/.cache/huggingface
ENTRYPOINT ["cag-uda"]
CMD ["--help"]
