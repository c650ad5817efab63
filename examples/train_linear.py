"""Linear regression on NumPy arrays: `fl.squared_error` for the gradient, `fl.AdamW` for the steps."""

import numpy as np

import fastloss as fl

rng = np.random.default_rng(0)
features = rng.standard_normal((10_000, 3))
target = features @ [3.0, -2.0, 0.5] + 1.0 + 0.1 * rng.standard_normal(10_000)

model = {"weights": np.zeros(3), "bias": np.zeros(1)}
optimizer = fl.AdamW(model, lr=0.02, weight_decay=1e-4)  # rewrites the arrays of `model` in place

for epoch in range(10):
    total = 0.0
    for batch in np.array_split(rng.permutation(len(target)), 40):
        x = features[batch]
        pred = x @ model["weights"] + model["bias"]
        loss, grad = fl.squared_error.value_and_grad(pred, target[batch])  # the mean, and its gradient in `pred`
        optimizer.step({"weights": x.T @ grad, "bias": grad.sum(keepdims=True)})
        total += loss * len(batch)
    print(f"epoch {epoch}: loss {total / len(target):.4f}")

print("weights", model["weights"].round(3), "bias", model["bias"].round(3))
