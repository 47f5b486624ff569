"""The S3 services of tests/sharding, for training from a bucket."""

from tests.sharding.s3_servers import moto_server, s3_environment  # noqa: F401
