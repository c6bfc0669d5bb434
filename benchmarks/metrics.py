"""What the benchmarked sound models are for, as metrics of a conversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sound

AUDIO = Path(__file__).parents[2] / "shared" / "data" / "audio"
SPEECH = 0.5


def si_sdr(outputs, references, feeds, labels) -> float:  # type: ignore[no-untyped-def]
    """Scale-invariant signal to distortion ratio of enhanced speech with the clean one, in dB.

    Le Roux et al. 2019, "SDR - half-baked or well done?". Labels number the chunks of the mixture.
    """
    return float(
        np.mean(
            [
                _ratio_db(*sound.enhanced(AUDIO, label, next(iter(answer.values()))[0]))
                for label, answer in zip(labels, outputs, strict=True)
            ]
        )
    )


def equal_decisions(outputs, references, feeds, labels) -> float:  # type: ignore[no-untyped-def]
    """Share of frames with the same decision on speech as the source's, in percent."""
    same = [
        (given["output"] > SPEECH) == (expected["output"] > SPEECH)
        for given, expected in zip(outputs, references, strict=True)
    ]
    return 100 * float(np.mean(same))


def same_neighbour(outputs, references, feeds, labels) -> float:  # type: ignore[no-untyped-def]
    """Share of sentences whose nearest other one is the same as by the source, in percent."""
    found, expected = (_nearest(_embeddings(answers)) for answers in (outputs, references))
    return 100 * float(np.mean(found == expected))


def _embeddings(answers: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    rows = np.concatenate([next(iter(answer.values())) for answer in answers]).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _nearest(embeddings: np.ndarray) -> np.ndarray:
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -1)
    return likeness.argmax(axis=1)


def _ratio_db(clean: np.ndarray, given: np.ndarray) -> float:
    target = clean * (given @ clean) / (clean @ clean)
    return 10 * np.log10((target @ target) / np.square(given - target).sum())
