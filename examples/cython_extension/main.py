"""Train with the extension that setup.py built: python main.py"""

import numpy as np
import robust

import fastloss as fl

rng = np.random.default_rng(0)
truth = np.array([1.0, -2.0, 0.5])
features = rng.normal(size=(2000, 3))
target = features @ truth + 0.1 * rng.normal(size=2000)
target[::10] += 20  # outliers

weights, along_the_way = robust.train(features, target, delta=0.5, lr=0.01, epochs=20)
loss = robust.mean_loss(features @ weights, target, delta=0.5)
assert loss == fl.huber(features @ weights, target, delta=0.5)  # the same engine: the same bits
print(f"weights {np.round(weights, 1) + 0.0}, loss {loss:.2f}")
