import psycopg
import pytest
import redis


@pytest.mark.integration
def test_a_service_gets_its_own_database_schema_and_role(service_database):
    with psycopg.connect(service_database("registry")) as connection:
        row = connection.execute(
            "select current_user, (select nspowner::regrole::text from pg_namespace where nspname='registry')"
        ).fetchone()
    assert row == ("clave_registry", "clave_registry")


@pytest.mark.integration
def test_each_test_gets_an_empty_valkey_database(redis_url):
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.set("a", 1)
    client.close()
