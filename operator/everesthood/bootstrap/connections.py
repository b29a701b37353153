"""Connections that several processes open in the same way."""

from pathlib import Path

from everesthood.adapters.postgres import Database
from everesthood.adapters.redis import RedisAddress
from everesthood.domain.errors import Invalid
from everesthood.settings import Settings


def open_database(settings: Settings, process: str) -> Database:
    """Return the pool to the record; nothing connects yet."""
    if not (settings.database_url_file or settings.database_url):
        raise Invalid("Set EVERESTHOOD_DATABASE_URL_FILE or EVERESTHOOD_DATABASE_URL: where is PostgreSQL?")

    def dsn() -> str:
        if settings.database_url_file:
            return Path(settings.database_url_file).read_text(encoding="utf-8").strip()
        return settings.database_url

    return Database(dsn, size=settings.database_pool_size, application=f"everesthood-{process}")


def redis_address(settings: Settings) -> RedisAddress:
    """Return where Redis is and who this process is there."""
    return RedisAddress(
        host=settings.redis_host,
        port=settings.redis_port,
        user=settings.redis_user,
        password_file=settings.redis_password_file,
        tls=settings.redis_tls,
        ca_file=settings.redis_ca_file,
    )
