# A supervised vLLM worker. From the checkout's root: docker build -f deploy/docker/vllm.Dockerfile -t seawall-vllm .
ARG VLLM=v0.32.0

FROM vllm/vllm-openai:${VLLM} AS build
WORKDIR /src
# An environment of its own: the supervisor runs vLLM, it does not import it.
RUN python3 -m venv /opt/seawall
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY backends backends
COPY policies policies
RUN /opt/seawall/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM vllm/vllm-openai:${VLLM}
RUN useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin seawall
COPY --from=build /opt/seawall /opt/seawall
ENV PYTHONUNBUFFERED=1 HF_HOME=/models/.cache
USER 10001
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
# Weights take minutes to load; until then the worker says so itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health' % os.environ.get('WORKER_PORT', '8000'), timeout=4)"]
ENTRYPOINT ["/opt/seawall/bin/seawall", "worker", "vllm", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
