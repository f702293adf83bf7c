"""An S3 server for tests and benches: moto, on a free port of 127.0.0.1, with a log of the requests it answered.

    python s3_server.py LOG BUCKET

makes the bucket, prints its address, and ends with its standard input. A line of LOG is a request: method and path.
"""

import json
import logging
import re
import sys

import boto3
from moto.server import ThreadedMotoServer


class Requests(logging.Formatter):
    """Of the server's lines, what was asked for."""

    def format(self, record):
        return re.search(r"([A-Z]+ \S+) HTTP/", record.getMessage())[1]


def main():
    log, bucket = sys.argv[1:]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="hush"
    )
    client.create_bucket(Bucket=bucket)
    # Its objects are a public web site as well.
    allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    logger, handler = logging.getLogger("werkzeug"), logging.FileHandler(log)
    handler.addFilter(lambda record: " HTTP/1." in record.getMessage())
    handler.setFormatter(Requests())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    print(address, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
