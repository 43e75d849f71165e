"""Networks in plain PyTorch. `model: {module: "networks:SmallCNN"}` trains one.

The constructor is given the arguments below `model.config`, and besides these what it asks for by
name of what data and task offer. The forward gives logits.
"""

import torch
from torch import nn


class SmallCNN(nn.Module):
    """Twice a convolution, batch norm and a pool by two, then the classes by what is where."""

    def __init__(
        self,
        num_labels: int,
        num_channels: int,
        image_size: int,
        width: int = 16,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(num_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        left = 2 * width * (image_size // 4) ** 2
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(left, num_labels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))  # (B, C, H, W) → (B, classes)


class TextLSTM(nn.Module):
    """Reads a text in both directions; the class is told by the mean over its real tokens."""

    def __init__(self, vocab_size: int, num_labels: int, width: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * width, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(input_ids))  # (B, T, 2 × width)
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.classifier(pooled)


class TextCNN(nn.Module):
    """Convolutions over 1, 3 and 5 tokens; of each the mean and the maximum over the text tell the
    class (Kim 2014). It reads texts of thousands of tokens in the time of a sentence of BERT's."""

    def __init__(self, vocab_size: int, num_labels: int, width: int = 96, dropout: float = 0.5):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, k, padding=k // 2) for k in (1, 3, 5))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(7 * width, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weight = attention_mask.unsqueeze(1).to(self.embedding.weight.dtype)  # (B, 1, T)
        tokens = self.embedding(input_ids).transpose(1, 2) * weight  # (B, width, T)
        length = weight.sum(2).clamp(min=1)
        pooled = [tokens.sum(2) / length]
        for conv in self.convs:
            found = conv(tokens).relu() * weight
            pooled += [found.amax(2), found.sum(2) / length]
        return self.classifier(self.dropout(torch.cat(pooled, 1)))


class SoundLSTM(nn.Module):
    """Reads a spectrogram in both directions; the class is told by the mean over its frames."""

    def __init__(self, num_labels: int, num_mel_bins: int, width: int = 64, layers: int = 2):
        super().__init__()
        self.lstm = nn.LSTM(num_mel_bins, width, layers, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * width, num_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(frames)  # (B, frames, bins) → (B, frames, 2 × width)
        return self.classifier(states.mean(1))


class TextTransformer(nn.Module):
    """`nn.TransformerEncoder` with learnt positions; the mean over the tokens tells the class."""

    def __init__(
        self,
        vocab_size: int,
        max_position_embeddings: int,
        num_labels: int,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_position_embeddings, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.embedding(input_ids) + self.position(places)
        states = self.encoder(states, src_key_padding_mask=attention_mask == 0)  # (B, T, width)
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.classifier(pooled)
