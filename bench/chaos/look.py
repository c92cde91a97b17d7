"""A first look at a deployment's stream: what is wrong with it is said once, and to people."""

import os
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from bench.chaos.foreign import ANSWER_S
from bench.chaos.library import Target
from bench.machine import BenchError

_STATUSES = {
    401: "401: it does not take the credential (--header, --query)",
    403: "403: the credential may not read this",
    404: "404: there is no such stream",
    429: "429: too many connects or streams; wait, or raise its limits",
}
# The crowd unpacks nothing, and does not offer to.
_ASKED = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


async def look(session: aiohttp.ClientSession, target: Target, url: str) -> None:
    """Ask for the stream once. Raises BenchError: a sentence for people, without what follows `?`,
    where credentials may stand.
    """
    where = urlsplit(url)
    place = f"{where.scheme}://{where.netloc}{where.path}"
    timeout = aiohttp.ClientTimeout(total=None, connect=ANSWER_S, sock_read=ANSWER_S)
    try:
        async with session.get(
            URL(f"{where.scheme}://{where.netloc}{target.path}", encoded=True),
            headers=_ASKED | target.headers,
            allow_redirects=False,  # nobody but who was named gets the credential
            timeout=timeout,
        ) as answer:
            why = _refusal(answer, url)
    except aiohttp.ClientConnectorCertificateError as error:
        why = (
            f"has a certificate that can't be verified ({error.certificate_error.verify_message}); "
            "an authority of your own goes into SSL_CERT_FILE"
        )
    except aiohttp.ClientConnectorError as error:
        why = f"can't be reached: {_unreached(error)}"
    except TimeoutError:
        why = f"does not answer within {ANSWER_S:g} s"
    except (aiohttp.ClientError, ValueError) as error:
        why = f"gives no answer that can be read ({type(error).__name__})"
    if why:
        raise BenchError(f"{place} {why}")


def _unreached(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it speaks no TLS, or none that is spoken here; is it http://?"
    # asyncio's own words name a call, those of a name server have no positive number.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or "there is nobody"


def _refusal(answer: aiohttp.ClientResponse, url: str) -> str:
    """Why an answer is no stream; empty if it is one."""
    status, kind = answer.status, answer.content_type
    if 300 <= status < 400:
        to = urlsplit(urljoin(url, answer.headers.get("Location", "")))
        return f"sends elsewhere ({to.scheme}://{to.netloc}{to.path}): give that address"
    if status != 200:
        return f"answers {_STATUSES.get(status, str(status))}"
    if kind != "text/event-stream":
        return f"answers with {kind}, not an event stream"
    packed = answer.headers.get("Content-Encoding", "identity")
    return "" if packed == "identity" else f"packs its stream ({packed}), which nobody asked for"
