"""A small convolutional network in NumPy: layers with a forward and a backward pass.

Just enough to train LeNet-5 in seconds with nothing but NumPy. Every layer keeps what its backward
pass needs from the last forward pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class Layer:
    """A function of one array with parameters; the base class has none."""

    def __init__(self) -> None:
        self.parameters: list[Array] = []
        self.gradients: list[Array] = []

    def forward(self, x: Array) -> Array:
        """Compute the output for a batch `x` of shape (N, ...)."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Give dL/dx for dL/dy, and leave the parameters' gradients in `gradients`."""
        raise NotImplementedError


class Dense(Layer):
    """``y[n, m] = sum_k x[n, k] w[m, k] + b[m]``, weights He-scaled."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.weight = he_normal(rng, (outputs, inputs), inputs)
        self.parameters = [self.weight, np.zeros(outputs, np.float32)]

    def forward(self, x: Array) -> Array:
        """Compute (N, K) → (N, M)."""
        self.x = x
        return x @ self.parameters[0].T + self.parameters[1]

    def backward(self, dy: Array) -> Array:
        """Give dL/dx of shape (N, K)."""
        self.gradients = [dy.T @ self.x, dy.sum(axis=0)]
        return dy @ self.parameters[0]


class Conv(Layer):
    """A convolution without padding, stride 1, by im2col; weights (CO, CI, K, K), He-scaled."""

    def __init__(self, ci: int, co: int, kernel: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.kernel = kernel
        self.parameters = [
            he_normal(rng, (co, ci, kernel, kernel), ci * kernel * kernel),
            np.zeros(co, np.float32),
        ]

    def forward(self, x: Array) -> Array:
        """Compute (N, CI, H, W) → (N, CO, H - K + 1, W - K + 1)."""
        weight, bias = self.parameters
        self.shape = x.shape
        windows = np.lib.stride_tricks.sliding_window_view(
            x, (self.kernel, self.kernel), axis=(2, 3)
        )
        n, _, oh, ow = windows.shape[:4]
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * oh * ow, -1)
        y = self.columns @ weight.reshape(len(weight), -1).T + bias
        return y.reshape(n, oh, ow, -1).transpose(0, 3, 1, 2)

    def backward(self, dy: Array) -> Array:
        """Give dL/dx of shape (N, CI, H, W): every tap adds its share of the columns' gradient."""
        weight, _ = self.parameters
        n, co, oh, ow = dy.shape
        rows = dy.transpose(0, 2, 3, 1).reshape(-1, co)
        self.gradients = [(rows.T @ self.columns).reshape(weight.shape), rows.sum(axis=0)]
        columns = (rows @ weight.reshape(co, -1)).reshape(n, oh, ow, *weight.shape[1:])
        dx = np.zeros(self.shape, np.float32)
        for kh in range(self.kernel):
            for kw in range(self.kernel):
                share = columns[..., kh, kw].transpose(0, 3, 1, 2)
                dx[:, :, kh : kh + oh, kw : kw + ow] += share
        return dx


class MaxPool(Layer):
    """The maximum of each 2x2 square; H and W are even."""

    def forward(self, x: Array) -> Array:
        """Compute (N, C, H, W) → (N, C, H/2, W/2)."""
        n, c, h, w = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y: Array = squares.max(axis=(3, 5))
        mask = squares == y[:, :, :, None, :, None]
        self.mask = mask / mask.sum(axis=(3, 5), keepdims=True, dtype=np.float32)
        return y

    def backward(self, dy: Array) -> Array:
        """Give dL/dx; equal maxima share the gradient."""
        dx: Array = self.mask * dy[:, :, :, None, :, None]
        n, c, h2, _, w2, _ = dx.shape
        return dx.reshape(n, c, 2 * h2, 2 * w2)


class Relu(Layer):
    """``max(x, 0)``."""

    def forward(self, x: Array) -> Array:
        """Compute element by element."""
        self.positive = x > 0
        y: Array = x * self.positive
        return y

    def backward(self, dy: Array) -> Array:
        """Pass the gradient where the input was positive."""
        dx: Array = dy * self.positive
        return dx


class Flatten(Layer):
    """(N, C, H, W) → (N, C·H·W)."""

    def forward(self, x: Array) -> Array:
        """Reshape."""
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array) -> Array:
        """Reshape back."""
        return dy.reshape(self.shape)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Array:
    """Draw weights with variance 2 / fan_in."""
    scaled: npt.NDArray[np.float64] = rng.standard_normal(shape) * (2.0 / fan_in) ** 0.5
    return scaled.astype(np.float32)


def lenet5(rng: np.random.Generator, classes: int = 10) -> list[Layer]:
    """LeNet-5 for (N, 1, 32, 32), with ReLU and max pooling instead of tanh and averages.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition (1998),
    section II.B.
    """
    return [
        *(Conv(1, 6, 5, rng), Relu(), MaxPool()),
        *(Conv(6, 16, 5, rng), Relu(), MaxPool(), Flatten()),
        *(Dense(16 * 5 * 5, 120, rng), Relu()),
        *(Dense(120, 84, rng), Relu()),
        Dense(84, classes, rng),
    ]


def forward(layers: list[Layer], x: Array) -> Array:
    """Run the layers in turn."""
    for layer in layers:
        x = layer.forward(x)
    return x


def cross_entropy(logits: Array, labels: npt.NDArray[np.intp]) -> tuple[float, Array]:
    """Mean of ``-log softmax(logits)[label]`` and its gradient by the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -float(log_p[rows, labels].mean()), (gradient / len(labels)).astype(np.float32)


class Adam:
    """Adam with its paper's constants and a cosine-shaped learning rate.

    References
    ----------
    Kingma, Ba: Adam: A method for stochastic optimization (2015), algorithm 1.
    """

    def __init__(self, layers: list[Layer], steps: int, rate: float = 2e-3) -> None:
        self.layers = [layer for layer in layers if layer.parameters]
        self.moments = [
            [np.zeros((2, *p.shape), np.float32) for p in a.parameters] for a in self.layers
        ]
        self.steps, self.rate, self.step_count = steps, rate, 0

    def step(self) -> None:
        """Move every parameter along the gradients of the last backward pass."""
        self.step_count += 1
        t = self.step_count
        rate = self.rate * 0.5 * (1 + np.cos(np.pi * t / self.steps))
        for layer, moments in zip(self.layers, self.moments, strict=True):
            for p, g, m in zip(layer.parameters, layer.gradients, moments, strict=True):
                m[0] += 0.1 * (g - m[0])
                m[1] += 0.001 * (g * g - m[1])
                p -= rate * (m[0] / (1 - 0.9**t)) / (np.sqrt(m[1] / (1 - 0.999**t)) + 1e-8)
