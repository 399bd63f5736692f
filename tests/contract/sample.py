"""The configuration that the contract shows, to the letter."""

SAMPLE = """\
server:
  listen: 127.0.0.1:8080          # host:port
  workers: 1                      # processes sharing the port
  max_body: 20MiB
  drain: 30s                      # SIGTERM: stop accepting, finish what runs, at most this long
  trusted_proxies: []             # CIDRs whose X-Forwarded-* are believed
  admin: {listen: null, key: null} # null: same listener; status, errors and admin page need the key unless the peer is loopback
auth:
  keys:                           # none: open (and `check` warns unless the listener is loopback)
    - {name: team-a, key: "${TEAM_A_KEY}", models: ["llama*"], requests_per_minute: 600, tokens_per_minute: 200000, concurrency: 32, priority: 5}
backends:                         # required, at least one
  llama-a: {url: "http://10.0.0.5:8000", kind: vllm}       # kinds: vllm sglang llamacpp tgi diffusers openai anthropic embedded
  llama-b: {url: "http://10.0.0.6:8000", kind: vllm, weight: 2, max_concurrency: 64}
  small:   {url: "http://10.0.0.7:8000", kind: vllm, model: "qwen-0.5b"}   # model: the name sent upstream
  sdxl:    {url: "http://10.0.0.8:8000", kind: diffusers}
  # more keys: api_key, headers, tls, context_length, health {path, interval, timeout, probe: http|generate, healthy_after, unhealthy_after},
  # discover: dns | kubernetes (one name, many endpoints)
routes:                           # first match wins; required, at least one
  - model: "llama-3.1-8b"         # exact, glob, or list of them
    backends: [llama-a, llama-b]  # primary tier, balanced
    fallback: [small]             # tiers in order; an entry is a name, a list of names, or {backend: name, model: other-name}
    policy: chat
  - {model: sdxl, backends: [sdxl], policy: images}
policies:
  chat:
    extends: default              # default always exists and may be redefined
    balance: least_load           # round_robin | random | p2c | least_load | prefix | session
    timeout: {connect: 2s, first_token: 30s, idle: 15s, total: 10m}   # idle: longest silence inside an answer
    retry: {attempts: 3, backoff: {initial: 50ms, factor: 2, max: 2s, jitter: full}, budget: {ratio: 0.2, min_per_second: 3}, on: [backend_unreachable, model_overloaded, model_loading, generation_failed, inference_timeout]}
    circuit_breaker: {window: 30s, min_requests: 10, failure_ratio: 0.5, consecutive_failures: 5, slow_call: {over: 20s, ratio: 0.8}, open_for: 10s, max_open_for: 5m, half_open_probes: 2, max_ejected: 0.5}
    hedge: {after: null, max: 1, budget: 0.05}      # after: a duration or p95; null = off
    stream: {resume: true, max_resumes: 2, keepalive: 15s}
    concurrency: {mode: adaptive, min: 4, max: 512}  # or {mode: fixed, limit: 64}
    admission: {max_queue: 256, max_wait: 10s}
    oom: {shrink: 0.5, attempts: 1}                  # on out_of_memory: retry once with max_tokens / steps / resolution reduced, and say so
    degrade: {signal: [gpu, kv_cache, queue, cpu, memory], reduced: {above: 0.7, quality: 0.7}, minimal: {above: 0.9, quality: 0.4}}
    limits: {max_input_chars: 200000, max_tokens: 8192, max_pixels: 1048576, max_steps: 100}
    stale_if_error: {ttl: 0s}                        # serve a cached identical deterministic answer when everything fails
    fault: null                                      # {abort: 0.1, status: 503, delay: 2s, share: 0.05}: for game days
alerts:
  targets: ["slack://...", "pagerduty://...", "mailto://..."]   # apprise URLs
observability: {log: {format: auto, level: info, prompts: false}, otlp: null}
state: {redis: null}              # redis://...: breakers, limits, budgets shared by replicas
"""  # noqa: E501
