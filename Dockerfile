# The image of profiles/kubernetes and of `--sdm apptainer`: the lock file, the native cores, nothing else.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/proving-ground
COPY bootstrap.lock requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r bootstrap.lock \
 && uv pip install --system --compile-bytecode --require-hashes -r requirements.lock
COPY . .
# The image runs on other processors than the one that builds it.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -C cmake.define.PG_PORTABLE=ON -e .
ENTRYPOINT ["snakemake"]
CMD ["help"]
