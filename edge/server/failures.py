"""Errors as answers: a status and ``{"error": …}``."""

from __future__ import annotations

import logging
from http import HTTPStatus

from edge.core import errors
from edge.server.http.message import HttpError, Response, error_response

log = logging.getLogger(__name__)

_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.UnsupportedError: HTTPStatus.NOT_IMPLEMENTED,
    errors.InputError: HTTPStatus.BAD_REQUEST,
    errors.BundleError: HTTPStatus.BAD_REQUEST,
    errors.EngineError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def failure_response(error: BaseException) -> Response:
    """The answer to a request that ended in ``error``; a defect of ours is logged and kept back."""
    if isinstance(error, HttpError):
        allow = (("Allow", error.allow),) if error.allow else ()
        return error_response(error.status, str(error), allow)
    if not isinstance(error, errors.EdgeError):
        log.error("a request failed", exc_info=error)
        return error_response(500, "internal error, see the server's log")
    known = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    status = next(known, HTTPStatus.INTERNAL_SERVER_ERROR)
    message = f"{error} ({error.hint})" if error.hint else str(error)
    return error_response(status, message)
