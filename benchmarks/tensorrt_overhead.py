"""What a session adds to TensorRT's own ``execute_async_v3``; needs an NVIDIA GPU.

    python benchmarks/tensorrt_overhead.py BUNDLE

Both run the engine of the bundle's TensorRT variant with the same buffers' sizes, one call after
the other, in alternating blocks; the raw loop queues the kernels and waits, and copies nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from edge.bundle import open_bundle
from edge.core import plugins
from edge.core.profile import load_profile
from runtimes.tensorrt import TensorRtBackend

ROUNDS, CALLS, WARM_UP = 9, 300, 50


def block(call: Callable[[], object]) -> float:
    """Median of single calls, in microseconds."""
    times = []
    for number in range(WARM_UP + CALLS):
        start = time.perf_counter()
        call()
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> int:
    backend = plugins.backend("tensorrt")
    availability = backend.availability()
    if not isinstance(backend, TensorRtBackend) or not availability.ready:
        print(f"skipped: {availability.reason}", file=sys.stderr)
        return 0
    with open_bundle(sys.argv[1]) as bundle:
        variant = next(v for v in bundle.manifest.variants if v.engine == "tensorrt")
        feeds, _ = bundle.golden(bundle.manifest.goldens[0])
        folder = bundle.extract_variant(variant.id)
        profile = load_profile(bundle.manifest.profile)
        with backend.open(variant, folder, profile) as session:
            instance = session._all[0]
            session.run(feeds)

            def raw() -> None:
                instance._context.execute_async_v3(instance._stream.handle)
                instance._stream.synchronize()

            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(block(lambda: session.run(feeds)))
                with session._gpu.active():
                    theirs.append(block(raw))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{variant.id}, TensorRT {availability.version}, {availability.facts}")
    print(f"session {statistics.median(ours):.1f} µs, raw {statistics.median(theirs):.1f} µs")
    print(f"ratio {ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
