# A supervised image worker. From the checkout's root: docker build -f deploy/docker/diffusers.Dockerfile -t seawall-diffusers .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/seawall
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY backends backends
COPY policies policies
# Most text-to-image pipelines take their text encoder from transformers.
RUN /opt/seawall/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[diffusers,gpu]' \
  'transformers>=4.57,<6' 'accelerate>=1.10,<2'

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin seawall
COPY --from=build /opt/seawall /opt/seawall
ENV PATH=/opt/seawall/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001
VOLUME /models
EXPOSE 9004
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health' % os.environ.get('WORKER_PORT', '9004'), timeout=4)"]
ENTRYPOINT ["seawall", "worker", "diffusers", "--host", "0.0.0.0", "--port", "9004"]
CMD ["--pipeline", "/models/pipeline"]
