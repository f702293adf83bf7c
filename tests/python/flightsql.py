"""Flight SQL over plain `pyarrow.flight`: pyarrow has the transport but not the commands, so they are encoded here.

A command is a protobuf `Any` that holds a message of FlightSql.proto. All we need are strings and bytes.
"""

import pyarrow.flight as flight


def field(number, value):
    """One length-delimited protobuf field."""
    data = value.encode() if isinstance(value, str) else value
    length, size = b"", len(data)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def command(name, *fields):
    """A descriptor of the Flight SQL command `name`."""
    return flight.FlightDescriptor.for_command(packed(name, *fields))


def packed(name, *fields):
    url = "type.googleapis.com/arrow.flight.protocol.sql." + name
    return field(1, url) + field(2, b"".join(fields))


def start(client, sql, options=None):
    """Starts a statement: its FlightInfo."""
    return client.get_flight_info(command("CommandStatementQuery", field(1, sql)), options)


def query(client, sql, options=None):
    """Runs a statement: its rows as a table."""
    info = start(client, sql, options)
    (endpoint,) = info.endpoints
    return client.do_get(endpoint.ticket, options).read_all()
