"""Tensors for the models that eat sound: speech with noise for nsnet2, frames for silero."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path

import numpy as np

RATE = 16_000
WINDOW = 320
HOP = 160
CHUNK_FRAMES = 100
FRAME = 512
CONTEXT = 64
TAPER = np.sqrt(np.hanning(WINDOW + 1)[:-1])


def read_wav(path: Path) -> np.ndarray:
    """Mono 16 kHz sound as float32 in -1..1."""
    with wave.open(str(path)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


@cache
def _speech_and_noise(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """30 s of speech, and ten seconds each of three noises as loud as it."""
    speech = read_wav(folder / "speech_30s_16k.wav")
    names = ("running_tap", "exercise_bike", "rain")
    noise = np.concatenate([read_wav(folder / f"noise_{name}_10s_16k.wav") for name in names])
    length = min(len(speech), len(noise))
    speech, noise = speech[:length], noise[:length]
    return speech, noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2))


def _spectra(sound: np.ndarray) -> np.ndarray:
    """Complex spectra (chunk, frames, 161)."""
    starts = range(0, len(sound) - WINDOW + 1, HOP)
    frames = np.stack([sound[start : start + WINDOW] * TAPER for start in starts])
    spectra = np.fft.rfft(frames)
    count = len(spectra) // CHUNK_FRAMES
    return spectra[: count * CHUNK_FRAMES].reshape(count, CHUNK_FRAMES, -1)


@cache
def _mixture(folder: Path) -> np.ndarray:
    speech, noise = _speech_and_noise(folder)
    return _spectra(speech + noise)


def nsnet2_inputs(folder: Path) -> dict[str, np.ndarray]:
    """Log power spectra (sample, frames, 161), as nsnet2 was trained on; labels number them."""
    power = np.abs(_mixture(folder)) ** 2
    spectra = np.log10(np.maximum(power, 1e-12)).astype(np.float32)
    return {"input": spectra, "labels": np.arange(len(spectra))}


def enhanced(folder: Path, chunk: int, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clean speech of a chunk, and the mixture with ``gain`` (frames, 161) applied, as sound."""
    frames = np.fft.irfft(_mixture(folder)[chunk] * gain) * TAPER
    given = np.zeros((CHUNK_FRAMES + 1) * HOP)
    for number, frame in enumerate(frames):
        given[number * HOP : number * HOP + WINDOW] += frame
    start = chunk * CHUNK_FRAMES * HOP
    clean = _speech_and_noise(folder)[0][start : start + len(given)]
    inside = slice(HOP, len(clean) - HOP)  # where two windows overlap and add up to one
    return clean[inside].astype(np.float64), given[inside]


def silero_inputs(model: Path, folder: Path) -> dict[str, np.ndarray]:
    """Frames of speech and of noise, each with the state that the FP32 model carried into it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    has_rate = "sr" in {tensor.name for tensor in session.get_inputs()}
    rate = {"sr": np.array(RATE, np.int64)} if has_rate else {}
    sound = np.concatenate(
        [read_wav(folder / "speech_30s_16k.wav"), read_wav(folder / "noise_rain_10s_16k.wav")]
    )
    sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    state = np.zeros((2, 1, 128), np.float32)
    frames, states = [], []
    for start in range(0, len(sound) - FRAME - CONTEXT + 1, FRAME):
        frame = sound[np.newaxis, start : start + CONTEXT + FRAME]
        frames.append(frame)
        states.append(state)
        _, state = session.run(None, {"input": frame, "state": state, **rate})
    rates = {"sr": np.full(len(frames), RATE, np.int64)} if has_rate else {}
    return {"input": np.stack(frames), "state": np.stack(states), **rates}
