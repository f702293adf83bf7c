"""What users of `adbc_driver_flightsql` and `pyarrow.flight` do, against a running server.

    python clients.py URI CHECK [ARGUMENT]

Each check is a function; a failed one ends with its traceback.
"""

import pathlib
import sys
import threading

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
from flightsql import command, field, query, start

# No test lives to see its end.
ENDLESS = "SELECT sum(value) FROM generate_series(1, 9000000000000000)"


def connect(uri, **options):
    return adbc.connect(uri, db_kwargs=options, autocommit=True)


def raises(kind, action):
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def adbc_queries(uri):
    """Rows, parameters, definitions, writes."""
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one, 'zwei' AS two, NULL AS three")
        assert cursor.fetchone() == (1, "zwei", None)
        cursor.execute("SELECT value, 'text ' || value AS text FROM generate_series(1, 100000)")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 100_000 and table.schema.field("text").type == pa.string()
        # What string views could not do.
        assert table.filter(pc.equal(table["text"], "text 7")).num_rows == 1
        cursor.execute("SELECT $1::bigint + $2::bigint AS sum", (40, 2))
        assert cursor.fetchall() == [(42,)]
        cursor.execute("CREATE TABLE written AS SELECT 1::bigint AS a, 'x' AS b")
        # Not fetched, and done nevertheless.
        cursor.execute("INSERT INTO written VALUES (2, 'y')")
        cursor.executemany("INSERT INTO written VALUES ($1, $2)", [(3, "z"), (4, None)])
        assert cursor.rowcount in (2, -1), cursor.rowcount
        cursor.execute("SELECT a, b FROM written ORDER BY a")
        assert cursor.fetchall() == [(1, "x"), (2, "y"), (3, "z"), (4, None)]
        cursor.execute("SELECT * FROM written WHERE false")
        assert cursor.fetch_arrow_table().num_rows == 0


def adbc_catalog(uri):
    """Tables with their schemas."""
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE VIEW listed AS SELECT 1::int AS number, 'a' AS name")
        schema = connection.adbc_get_table_schema("listed")
        assert schema.names == ["number", "name"] and schema.field("name").type == pa.string(), schema
        objects = connection.adbc_get_objects(depth="all", table_name_filter="listed").read_all().to_pylist()
        tables = [
            table
            for catalog in objects
            for schema in catalog["catalog_db_schemas"] or []
            for table in schema["db_schema_tables"] or []
        ]
        (listed,) = [table for table in tables if table["table_name"] == "listed"]
        assert listed["table_type"] == "VIEW"
        assert [column["column_name"] for column in listed["table_columns"]] == ["number", "name"]
        assert "VIEW" in connection.adbc_get_table_types()
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "Onward", info


def adbc_errors(uri):
    """A bad query says what is wrong, as the exception that Python users expect, and the connection lives on."""
    with connect(uri) as connection, connection.cursor() as cursor:
        error = raises(adbc_driver_manager.ProgrammingError, lambda: cursor.execute("SELECT * FORM nation"))
        assert error.status_code == adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT, error
        assert "Line: 1" in str(error), error
        error = raises(adbc_driver_manager.Error, lambda: cursor.execute("SELECT * FROM nowhere"))
        assert "nowhere" in str(error), error

        def divide():
            cursor.execute("SELECT 1 / (value - 3) FROM generate_series(1, 5)")
            cursor.fetchall()

        error = raises(adbc_driver_manager.Error, divide)
        assert "divide by zero" in str(error).lower(), error
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def adbc_ends(uri):
    """Cancel from another thread; a timeout of the session; a timeout of one call."""
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(ENDLESS)
        threading.Thread(target=cursor.adbc_cancel).start()
        raises(adbc_driver_manager.Error, cursor.fetchall)
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET onward.statement_timeout_ms = 50")

        def run():
            cursor.execute(ENDLESS)
            cursor.fetchall()

        error = raises(adbc_driver_manager.Error, run)
        assert error.status_code == adbc_driver_manager.AdbcStatusCode.TIMEOUT, repr(error)
    with connect(uri, **{"adbc.flight.sql.rpc.timeout_seconds.fetch": "0.05"}) as connection:
        with connection.cursor() as cursor:

            def run():
                cursor.execute(ENDLESS)
                cursor.fetchall()

            error = raises(adbc_driver_manager.Error, run)
            assert error.status_code == adbc_driver_manager.AdbcStatusCode.TIMEOUT, repr(error)


def adbc_sessions(uri):
    """SET lasts on a connection; session options; a session kept by cookie."""

    def batch_size(connection):
        with connection.cursor() as cursor:
            cursor.execute("SHOW datafusion.execution.batch_size")
            return cursor.fetchone()[-1]

    with connect(uri) as connection, connect(uri) as other:
        with connection.cursor() as cursor:
            cursor.execute("SET datafusion.execution.batch_size = 111")
        assert batch_size(connection) == "111" and batch_size(other) != "111"
    option = "adbc.flight.sql.session.option.datafusion.execution.batch_size"
    with connect(uri) as connection:
        handle = connection.adbc_connection
        handle.set_options(**{option: "222"})
        assert batch_size(connection) == "222"
        assert handle.get_option(option) == "222"
        error = raises(adbc_driver_manager.Error, lambda: handle.set_options(**{option + "x": "1"}))
        assert "batch_sizex" in str(error), error
    with connect(uri, **{"adbc.flight.sql.rpc.with_cookie_middleware": "true"}) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET datafusion.execution.batch_size = 333")
        assert batch_size(connection) == "333"


def adbc_token(uri, token):
    """The token as authorization header, and as the password of any user."""
    header = {"adbc.flight.sql.authorization_header": f"Bearer {token}"}
    for options in [header, {"username": "ann", "password": token}]:
        with connect(uri, **options) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)

    def anonymous():
        with connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    error = raises(adbc_driver_manager.Error, anonymous)
    assert error.status_code == adbc_driver_manager.AdbcStatusCode.UNAUTHENTICATED, repr(error)


def pyarrow_token(uri, token):
    """pyarrow's basic handshake gives the header to use."""
    with flight.connect(uri) as client:
        raises(flight.FlightUnauthenticatedError, lambda: query(client, "SELECT 1"))
        header = client.authenticate_basic_token("ann", token)
        table = query(client, "SELECT 1 AS one", flight.FlightCallOptions(headers=[header]))
        assert table.to_pydict() == {"one": [1]}
        raises(flight.FlightUnauthenticatedError, lambda: client.authenticate_basic_token("ann", "wrong"))


def pyarrow_queries(uri):
    """Rows, schema, tables, errors, cancel, timeout and settings over plain Flight."""
    with flight.connect(uri) as client, flight.connect(uri) as other:
        info = start(client, "SELECT 1 AS one, 'zwei' AS two")
        assert info.app_metadata.startswith(b"q-"), info.app_metadata
        assert info.schema.names == ["one", "two"]
        assert client.do_get(info.endpoints[0].ticket).read_all().to_pylist() == [{"one": 1, "two": "zwei"}]
        schema = client.get_schema(command("CommandStatementQuery", field(1, "SELECT 1 AS one"))).schema
        assert schema.names == ["one"]
        tables = client.get_flight_info(command("CommandGetTables", bytes([5 << 3, 1])))
        tables = client.do_get(tables.endpoints[0].ticket).read_all()
        for serialized in tables["table_schema"]:
            pa.ipc.read_schema(pa.py_buffer(serialized.as_py()))

        error = raises(pa.ArrowInvalid, lambda: query(client, "SELECT * FORM nation"))
        assert "Line: 1" in str(error), error
        # A setting stays on its connection.
        query(client, "SET datafusion.execution.batch_size = 444")
        show = "SHOW datafusion.execution.batch_size"
        assert "444" in str(query(client, show).to_pylist())
        assert "444" not in str(query(other, show).to_pylist())

        info = start(client, ENDLESS)
        reader = client.do_get(info.endpoints[0].ticket)
        request = field(1, info.serialize())
        (result,) = other.do_action(flight.Action("CancelFlightInfo", request))
        assert result.body.to_pybytes() == b"\x08\x01", "CANCELLED"
        # Not `read_all`: pyarrow turns a cancelled one into a KeyboardInterrupt.
        raises(flight.FlightCancelledError, lambda: [reader.read_chunk() for _ in range(2)])

        timeout = flight.FlightCallOptions(timeout=0.05)
        raises(flight.FlightTimedOutError, lambda: query(client, ENDLESS, timeout))
        header = flight.FlightCallOptions(headers=[(b"x-onward-timeout-ms", b"50")])
        raises(flight.FlightTimedOutError, lambda: query(client, ENDLESS, header))

        reader = client.do_get(start(client, "SELECT * FROM generate_series(1, 900000000000)").endpoints[0].ticket)
        assert reader.read_chunk().data.num_rows > 0
        reader.cancel()
        assert query(client, "SELECT 1 AS one").to_pydict() == {"one": [1]}


def tpch(uri, folder):
    """Runs folder/*.sql with 4 functions through both clients; the rows go to files that the caller checks."""
    folder = pathlib.Path(folder)
    setting = "SET onward.functions = 4"
    with connect(uri) as connection, connection.cursor() as cursor, flight.connect(uri) as client:
        cursor.execute(setting)
        query(client, setting)
        for path in sorted(folder.glob("q*.sql")):
            sql = path.read_text()
            cursor.execute(sql)
            write(path.with_suffix(".adbc.arrow"), cursor.fetch_arrow_table())
            write(path.with_suffix(".pyarrow.arrow"), query(client, sql))


def write(path, table):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


if __name__ == "__main__":
    uri, check, *arguments = sys.argv[1:]
    globals()[check](uri, *arguments)
