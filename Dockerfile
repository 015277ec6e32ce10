# docker build -t trainopt .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" trainopt optimizer=adam
# Runs are written to outputs/ of the present folder, and your own code is read from there. Without --user, files belong to root.
# Data sets: -v FOLDER:/data. With GPUs: --gpus all (torch from PyPI brings its CUDA libraries). Processes that read images need
# more shared memory than Docker's 64 MB: --ipc=host.
FROM python:3.11-slim
# g++ for compile=true, git for the commit of your code
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip install --no-cache-dir '/source[optimizers,optuna,metrics,trackers]' && rm -rf /source
# a home that every user may write
ENV HOME=/tmp TRAINOPT_DATA=/data
WORKDIR /work
ENTRYPOINT ["trainopt"]
