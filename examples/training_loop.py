"""A training loop to copy: mini-batches, a schedule, clipped gradients, averaged parameters, and the state on disk."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import fastloss as fl

EPOCHS, BATCHES = 20, 40

rng = np.random.default_rng(0)
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
held_out, train = np.split(rng.permutation(len(digits)), [len(digits) // 5])


def layer(inputs, outputs):
    return (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32)


def forward(model, x):
    hidden = np.maximum(x @ model["weights1"] + model["bias1"], 0)
    return hidden, hidden @ model["weights2"] + model["bias2"]


def accuracy(model):
    return np.mean(forward(model, images[held_out])[1].argmax(axis=1) == digits[held_out])


def adamw(model):
    warmup = 2 * BATCHES
    lr = fl.schedules.warmup(fl.schedules.cosine(0.01, steps=EPOCHS * BATCHES - warmup), steps=warmup)
    return fl.AdamW(model, lr=lr, decay_mask=lambda array: array.ndim == 2, ema_decay=0.99)  # biases do not decay


model = {
    "weights1": layer(64, 128),
    "bias1": np.zeros(128, np.float32),
    "weights2": layer(128, 10),
    "bias2": np.zeros(10, np.float32),
}
optimizer = adamw(model)  # rewrites the arrays of `model` in place

for epoch in range(EPOCHS):
    total = 0.0
    for batch in np.array_split(rng.permutation(train), BATCHES):
        x = images[batch]
        hidden, logits = forward(model, x)
        loss, grad = fl.cross_entropy.value_and_grad(logits, digits[batch])  # the mean, and its gradient in `logits`
        back = grad @ model["weights2"].T * (hidden > 0)
        grads = {"weights1": x.T @ back, "bias1": back.sum(axis=0), "weights2": hidden.T @ grad, "bias2": grad.sum(axis=0)}
        optimizer.step(grads, max_norm=1.0)
        total += loss * len(batch)
    print(f"epoch {epoch}: loss {total / len(train):.4f}, held-out accuracy of the averages {accuracy(optimizer.ema):.1%}")

with tempfile.TemporaryDirectory() as folder:
    parameters, state = Path(folder) / "model.npz", Path(folder) / "optimizer.safetensors"
    np.savez(parameters, **model)
    fl.save_state(state, optimizer)
    with np.load(parameters) as saved:
        resumed = adamw(dict(saved))
    fl.load_state(state, resumed)  # steps, states and averages: from here it would go on as if nothing had happened
print(f"after {resumed.steps} steps, saved and loaded: held-out accuracy {accuracy(resumed.ema):.1%}")
