# docker build -t trainopt .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/outputs:/work/outputs" trainopt optimizer=adam
# Data: -v FOLDER:/work/data. With GPUs: --gpus all (torch from PyPI brings its CUDA libraries). Without --user, files in
# outputs/ belong to root. --ipc=host gives processes that read images more shared memory than Docker's 64 MB.
FROM python:3.11-slim
# for compile=true
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip install --no-cache-dir '/source[optimizers,optuna,metrics,trackers]' && rm -rf /source
# a home that every user may write
ENV HOME=/tmp TRAINOPT_DATA=/work/data
WORKDIR /work
ENTRYPOINT ["trainopt"]
