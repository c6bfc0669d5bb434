"""From a bundle to a model that runs: opens the best variant that this machine can take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge.bundle import Bundle, open_bundle
from edge.host.choice import Fallback, Wish
from edge.host.model import Model
from edge.host.opening import Opener

if TYPE_CHECKING:
    from edge.bundle.signing import Keyring
    from edge.settings import ModelSettings


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
    settings: ModelSettings | None = None,
    trust: Keyring | None = None,
) -> Model:
    """Load the best variant of a bundle for this machine; the model says which and why.

    Where an engine has to be built first, that is done here and now, and may take minutes.

    Args:
        options: For the engine: ``device`` (cpu, gpu, npu), ``threads``, or its own by name.
        fallback: Whether another variant or device than the preferred one may run.
        settings: How ``submit`` runs requests: in batches, on how many threads.
        trust: Whose signature the bundle has to bear; None asks for none.
    Raises:
        BundleError: The bundle can't be read, is damaged or altered, or ``trust`` refuses it.
        NotFoundError: It has no variant of that id or engine.
        UnavailableError: Nothing in it can run here, or ``fallback`` is ``deny`` and had to be.
        EngineError: The engine refused the variant's files.
    """
    bundle = open_bundle(path, trust)
    try:
        return load_bundle(
            bundle,
            engine=engine,
            variant=variant,
            options=options,
            fallback=fallback,
            settings=settings,
        )
    except BaseException:
        bundle.close()
        raise


def load_bundle(
    bundle: Bundle,
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
    settings: ModelSettings | None = None,
) -> Model:
    """``load`` for an open bundle, which the model owns from then on."""
    wish = Wish(variant or "", engine or "", dict(options or {}), fallback)
    opener = Opener(bundle.manifest, wish, settings)
    return Model(bundle, opener.open_best(bundle), settings=settings)
