# shellcheck shell=bash disable=SC2034  # sourced; the variables are used by run
# What is measured beside TaskGroup. Another version goes into another place of the cache.
REDIS_VERSION=7.0.15
CELERY_VERSION=5.7.0
GEVENT_VERSION=26.9.0
REDIS_PY_VERSION=8.1.0
BULLMQ_VERSION=6.7.0
# The client for Redis that BullMQ is tested with.
IOREDIS_VERSION=5.11.1
