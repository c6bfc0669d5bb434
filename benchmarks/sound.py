"""Tensors for the models that eat sound: speech with noise for nsnet2, frames for silero."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

RATE = 16_000
WINDOW = 320
HOP = 160
CHUNK_FRAMES = 100
FRAME = 512
CONTEXT = 64


def read_wav(path: Path) -> np.ndarray:
    """Mono 16 kHz sound as float32 in -1..1."""
    with wave.open(str(path)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


def noisy_speech(folder: Path) -> np.ndarray:
    """30 s of speech with ten seconds each of three noises, at 0 dB."""
    speech = read_wav(folder / "speech_30s_16k.wav")
    names = ("running_tap", "exercise_bike", "rain")
    noise = np.concatenate([read_wav(folder / f"noise_{name}_10s_16k.wav") for name in names])
    length = min(len(speech), len(noise))
    speech, noise = speech[:length], noise[:length]
    return speech + noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2))


def nsnet2_inputs(folder: Path) -> dict[str, np.ndarray]:
    """Log power spectra (sample, frames, 161), as nsnet2 was trained on."""
    sound = noisy_speech(folder)
    window = np.sqrt(np.hanning(WINDOW + 1)[:-1])
    starts = range(0, len(sound) - WINDOW + 1, HOP)
    frames = np.stack([sound[start : start + WINDOW] * window for start in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2
    spectra = np.log10(np.maximum(power, 1e-12)).astype(np.float32)
    count = len(spectra) // CHUNK_FRAMES
    return {"input": spectra[: count * CHUNK_FRAMES].reshape(count, CHUNK_FRAMES, -1)}


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
