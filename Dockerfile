FROM python:3.13.9-slim-trixie AS dependencies

COPY requirements.txt /
# Wheels only: nothing is compiled, so there is no compiler to leave behind.
RUN python -m venv /opt/gnomon \
    && /opt/gnomon/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement /requirements.txt \
    && /opt/gnomon/bin/pip uninstall --yes pip


FROM python:3.13.9-slim-trixie

RUN python -m pip uninstall --yes --root-user-action ignore pip \
    && groupadd --gid 10001 gnomon \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gnomon \
    # New volumes mounted here take over these owners.
    && install --directory --owner 10001 --group 10001 --mode 0750 /secrets /monitoring-secrets \
    && install --directory --owner 10001 --group 10001 --mode 0700 /worker-secrets \
    && printf '#!/bin/sh\nexec python -m gnomon.cli.main "$@"\n' >/usr/local/bin/gnomon \
    && chmod 0755 /usr/local/bin/gnomon

COPY --from=dependencies /opt/gnomon /opt/gnomon
COPY internal/gnomon /app/gnomon
COPY LICENSE /app/

ENV PATH=/opt/gnomon/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# The root is read-only when it runs: what would be compiled at each start is compiled now.
RUN python -m compileall -q /app

WORKDIR /app
USER 10001:10001
EXPOSE 8000

# For the API, which listens on loopback unless told otherwise; the other processes bring checks of their own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]

ENTRYPOINT ["gnomon"]
CMD ["api"]
