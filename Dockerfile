# docker build -t trainopt . && docker run --rm -v "$PWD/outputs:/work/outputs" trainopt optimizer=adam
# With GPUs: docker run --gpus all … (torch from PyPI brings its CUDA libraries).
FROM python:3.11-slim
COPY . /source
RUN pip install --no-cache-dir '/source[optimizers,optuna,metrics,trackers]' && rm -rf /source
WORKDIR /work
ENTRYPOINT ["trainopt"]
