"""The browser module at `/relay/client.js`: one file, read once, the same for everybody.

It stands apart from the streams because it is no refusal and no stream: it takes no credential, so
it may be cached anywhere and be imported by any page.
"""

import hashlib
import re
from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

PATH: Final = "/relay/client.js"
# What a browser has no use for: comments, which hold the types, and indentation. The first line
# stays, since it says whose file this is. The file has no string that looks like a comment, and no
# line that goes on within a string; its test says so.
_WASTE: Final = re.compile(r"(?<!^)(?:/\*\*.*?\*/|(?<=\s)//[^\n]*|(?<=\n)[ \t]+)", re.DOTALL)
_BLANK_LINES: Final = re.compile(r"[ \t]*\n\s*")
_HEADERS: Final = {
    # A new release is in use within the hour; asking again costs a 304.
    hdrs.CACHE_CONTROL: "public, max-age=3600",
    # It holds nothing of anybody's. What it then reads, `cors.allowed_origins` decides.
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}


def browser_module() -> bytes:
    """The module as browsers get it."""
    source = (files("lebureau_relay.edge") / "client.js").read_text(encoding="utf-8")
    return _BLANK_LINES.sub("\n", _WASTE.sub("", source)).encode()


def serve_module() -> Handler:
    """What answers GET and HEAD for the module, with 304 where the client has it already."""
    body = browser_module()
    etag = hashlib.sha256(body).hexdigest()[:32]

    async def serve(request: web.Request) -> web.StreamResponse:
        held = request.if_none_match or ()
        if any(each.value in {etag, "*"} for each in held):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(
                body=body, content_type="text/javascript", charset="utf-8", headers=_HEADERS
            )
        response.etag = etag
        return response

    return serve
