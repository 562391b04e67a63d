"""`http-hello` in Python: answers `hello` and returns the request's `x-request-id`.

componentize-py finds the class that implements the world's one export.
"""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

ANSWER = b"hello\n"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        headers = Fields.from_list(
            [
                ("content-type", b"text/plain; charset=utf-8"),
                ("content-length", str(len(ANSWER)).encode()),
            ]
        )
        # A resource is dropped at the end of its `with`: before the one that it was taken from.
        with request.headers() as asked:
            for value in asked.get("x-request-id"):
                headers.append("x-request-id", value)
        response = OutgoingResponse(headers)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            # At most 4096 bytes at once.
            stream.blocking_write_and_flush(ANSWER)
        OutgoingBody.finish(body, None)
