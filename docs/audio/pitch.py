"""A network that hears nothing of a voice but the course of its pitch.

`model: {module: "pitch:PitchContour"}` trains one. What it learns of one speaker holds for another
who speaks an octave higher or half as long, since neither comes through: the contour is taken over
the voiced part of a clip, at as many places whatever its length, and about its own mean.
"""

import torch
from torch import nn

RATE = 16_000
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms: in a longer one the pitch of a falling tone moves too far to be alike
LAGS = (26, 290)  # samples: 615 to 55 Hz
LEAST_ENERGY = 0.03  # of a frame, as a part of the loudest
LEAST_LIKENESS = 0.45  # of a frame and itself one period later, where it counts as voiced


class PitchContour(nn.Module):
    """Finds the pitch by the normalised cross-correlation of each frame with what follows it and by
    the best path through the lags (Talkin 1995, "A Robust Algorithm for Pitch Tracking"); a small
    perceptron names the contour."""

    def __init__(self, num_labels: int, points: int = 16, width: int = 32, dropout: float = 0.3):
        super().__init__()
        self.points = points
        self.classifier = nn.Sequential(
            nn.Linear(points, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_labels)
        )

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            contour = find_contour(samples.float(), self.points)  # (B, points), in fifths of e
        if self.training:
            contour = contour + 0.1 * torch.randn_like(contour)
        return self.classifier(contour.to(self.classifier[0].weight.dtype))


def find_contour(samples: torch.Tensor, points: int) -> torch.Tensor:
    """(B, T) samples → (B, points) logarithm of the pitch about its mean, times 5."""
    likeness, energy = correlate(samples)
    lags = torch.arange(*LAGS, device=samples.device)
    peak = torch.zeros_like(likeness, dtype=torch.bool)
    inner = likeness[..., 1:-1]
    peak[..., 1:-1] = (inner >= likeness[..., :-2]) & (inner >= likeness[..., 2:])
    voiced = (likeness * peak).amax(-1) > LEAST_LIKENESS
    voiced &= energy > LEAST_ENERGY * energy.amax(1, keepdim=True)
    # What is no peak is no period, and of two periods alike the shorter one is the pitch.
    score = torch.where(peak, likeness, 0.5 * likeness - 0.2) - 0.15 * (lags / lags[-1]).sqrt()
    score = score * torch.where(voiced, 1.0, 0.1).unsqueeze(-1)
    track = -lags.float().log()[best_path(score, lags)]  # (B, F)
    contour = stretch(track, voiced, points)
    return 5 * (contour - contour.mean(1, keepdim=True))


def correlate(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) → for each frame how alike it is to itself each lag later (B, F, lags), and its energy
    (B, F)."""
    first, last = LAGS
    padded = nn.functional.pad(samples, (0, WINDOW + last))
    frames = padded.unfold(1, WINDOW + last, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    size = 1024  # above WINDOW + last, so nothing wraps around
    spectrum = torch.fft.rfft(frames[..., :WINDOW], size).conj() * torch.fft.rfft(frames, size)
    products = torch.fft.irfft(spectrum, size)[..., first:last]
    sums = nn.functional.pad((frames**2).cumsum(-1), (1, 0))
    energy = sums[..., WINDOW]
    lags = torch.arange(first, last, device=samples.device)
    later = sums[..., WINDOW + lags] - sums[..., lags]
    floor = 1e-6 * energy.amax(1, keepdim=True).unsqueeze(-1) ** 2 + 1e-12
    return products / (energy.unsqueeze(-1) * later + floor).sqrt(), energy


def best_path(score: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """(B, F, lags) → (B, F) numbers of the lags whose scores, less their jumps, add up highest."""
    height = lags.float().log()
    jumps = 40 * (height[:, None] - height[None, :]) ** 2
    total, came_from = score[:, 0], []
    for frame in range(1, score.shape[1]):
        best, source = (total.unsqueeze(1) - jumps).max(-1)
        total = best + score[:, frame]
        came_from.append(source)
    path = [total.argmax(-1, keepdim=True)]
    for source in reversed(came_from):
        path.append(source.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)


def stretch(track: torch.Tensor, voiced: torch.Tensor, points: int) -> torch.Tensor:
    """(B, F) → (B, points), evenly from the first voiced frame to the last; of a clip without any,
    from its first to its last frame."""
    frames = track.shape[1]
    numbers = torch.arange(frames, device=track.device)
    voiced = voiced | ~voiced.any(1, keepdim=True)
    start = torch.where(voiced, numbers, frames).amin(1, keepdim=True)
    end = torch.where(voiced, numbers, 0).amax(1, keepdim=True)
    place = start + (end - start) * torch.linspace(0, 1, points, device=track.device)
    below = place.floor().long()
    above = (below + 1).clamp(max=frames - 1)
    part = place - below
    return track.gather(1, below) * (1 - part) + track.gather(1, above) * part
