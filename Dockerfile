# cope with everything that trains and asks.
#
#   CPU:   docker build -t cope .
#   CUDA:  docker build -t cope:cuda --build-arg TORCH=cuda .
#          docker run --gpus all -v "$PWD":/data cope:cuda ask video.mp4 "what happened?"
#
# The CUDA build needs no CUDA base image: PyTorch's own wheel brings the libraries, the host brings the driver.
FROM python:3.11-slim

ARG TORCH=cpu
WORKDIR /src
COPY . .
RUN if [ "$TORCH" = cpu ]; then index="--index-url https://download.pytorch.org/whl/cpu"; fi \
    && pip install --no-cache-dir $index "torch==$(sed -n 's/^torch==//p' constraints.txt)" \
    && pip install --no-cache-dir --constraint constraints.txt '.[models]' \
    && rm -rf /src

RUN useradd --create-home cope
USER cope
WORKDIR /data
ENTRYPOINT ["cope"]
CMD ["--help"]
