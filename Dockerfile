# docker build -t mss . && docker run --rm -v "$PWD:/music" mss song.mp3
# With a GPU: docker run --gpus all ... (the same image: the wheels of torch bring CUDA along and fall back to the CPU)
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mss
COPY . .
RUN make setup && .venv/bin/python -c "import mss; mss.load('spleeter-2stems')"

WORKDIR /music
ENTRYPOINT ["/mss/.venv/bin/python", "-m", "mss.separate"]
