# The gateway as a container. What it keeps is in /data; everything else may be read-only:
#   docker run --read-only --volume gateway:/data --env-file gateway.env --publish 8000:8000 leanplum-gateway

FROM python:3.13-slim-trixie AS build
COPY requirements.lock .
# The environment is made without pip, by the base's pip, so that the image has nothing to install with.
RUN python -m venv --without-pip /venv \
 && python -m pip --python /venv/bin/python install --quiet --no-cache-dir --no-compile --only-binary :all: \
      --require-hashes --requirement requirements.lock
# What the gateway never loads: other programs' scripts, names of places and of carriers for phone numbers, languages to
# show things in, what only colours help texts (TYPER_USE_RICH below), zstandard for PyPy, SQLAlchemy's tests.
RUN find /venv/bin -type f -delete \
 && cd /venv/lib/python3.13/site-packages \
 && rm -r mdurl* markdown_it* pygments* sqlalchemy/testing zstandard/_cffi.* zstandard/backend_cffi.py \
      phonenumbers/carrierdata phonenumbers/geodata phonenumbers/tzdata \
      phonenumbers/carrier.py phonenumbers/geocoder.py phonenumbers/timezone.py \
 && find babel/locale-data -name '*.dat' ! -name root.dat ! -name en.dat -delete
COPY app /srv/app
# Compiled here once: at run time nothing is written beside the code. unchecked-hash, since nobody edits it there.
RUN python -m compileall -q --invalidation-mode unchecked-hash /venv/lib /srv/app

FROM python:3.13-slim-trixie
# REVISION is the commit: --build-arg REVISION=$(git rev-parse HEAD). The version is that of app/__init__.py; a test compares.
ARG REVISION=""
LABEL org.opencontainers.image.title="leanplum-gateway" \
      org.opencontainers.image.description="A durable gateway from your backends to Leanplum" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie"
COPY --from=build /venv /venv
COPY --from=build /srv /srv
# The default databases are under ./data, the real one beside the sandbox's; here that is the volume.
# Any user with group 0 may write there, as platforms that choose the user themselves run it (docker run --user 12345:0).
RUN install --directory --owner 10001 --group 0 --mode 2770 /data && ln -s /data /srv/data
WORKDIR /srv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TYPER_USE_RICH=0 \
    HOME=/data \
    GATEWAY_HOST=0.0.0.0
USER 10001:0
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; p = os.environ.get('GATEWAY_PORT', ''); u.urlopen(f'http://127.0.0.1:{p if p.isdecimal() else 8000}/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
