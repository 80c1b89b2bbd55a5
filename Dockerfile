# singlelife on a machine with NVIDIA GPUs:
#   docker build --tag singlelife .
#   docker run --rm --gpus all --ipc host -v "$PWD:/data" singlelife train --life my_day --video day.mp4 --config base
FROM pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime
ENV PIP_NO_CACHE_DIR=1 HF_HOME=/data/.cache/huggingface SINGLELIFE_CACHE=/data/.cache/singlelife
COPY . /opt/singlelife
RUN pip install "/opt/singlelife[sim,plots,poses,evaluation]"
WORKDIR /data
ENTRYPOINT ["singlelife"]
CMD ["--help"]
