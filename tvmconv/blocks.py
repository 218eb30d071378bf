"""Blocks of well-known networks as whole models: small ONNX files with random weights.

``python -m tvmconv.blocks DIR`` writes them, in the sizes of the papers or, with ``--small``, in
sizes for tests. Each is compiled, verified and timed as any other ONNX file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmconv.block_maker import BlockMaker

if TYPE_CHECKING:
    import onnx


def lenet(m: BlockMaker, x: str) -> str:
    """LeNet-5: LeCun et al., Gradient-based learning applied to document recognition, 1998."""
    y = m.pool(m.node("Tanh", m.conv(x, 6, 5, pad=2)), "AveragePool", 2)
    y = m.pool(m.node("Tanh", m.conv(y, 16, 5)), "AveragePool", 2)
    y = m.node("Tanh", m.dense(m.node("Flatten", y), 120))
    return m.dense(m.node("Tanh", m.dense(y, 84)), 10)


def alexnet(m: BlockMaker, x: str) -> str:
    """AlexNet: Krizhevsky et al., NIPS 2012; the two groups of the second layers are its GPUs'."""
    y = m.node("LRN", m.relu(m.conv(x, 96, 11, stride=4)), size=5)
    y = m.pool(y, "MaxPool", 3, stride=2)
    y = m.node("LRN", m.relu(m.conv(y, 256, 5, pad=2, groups=2)), size=5)
    y = m.pool(y, "MaxPool", 3, stride=2)
    for channels, groups in ((384, 1), (384, 2), (256, 2)):
        y = m.relu(m.conv(y, channels, 3, pad=1, groups=groups))
    y = m.node("Flatten", m.pool(y, "MaxPool", 3, stride=2))
    for units in (4096, 4096):
        y = m.relu(m.dense(y, m.width(units)))
    return m.dense(y, 1000)


def inception(m: BlockMaker, x: str) -> str:
    """Inception module 3a: Szegedy et al., Going deeper with convolutions, CVPR 2015."""
    one = m.relu(m.conv(x, 64, 1))
    three = m.relu(m.conv(m.relu(m.conv(x, 96, 1)), 128, 3, pad=1))
    five = m.relu(m.conv(m.relu(m.conv(x, 16, 1)), 32, 5, pad=2))
    pooled = m.relu(m.conv(m.pool(x, "MaxPool", 3, stride=1, pad=1), 32, 1))
    return m.node("Concat", one, three, five, pooled, axis=1)


def resnet_basic(m: BlockMaker, x: str) -> str:
    """Two basic blocks, the second with a projection: He et al., CVPR 2016, figure 5 left."""
    for channels, stride in ((64, 1), (128, 2)):
        shortcut = x if stride == 1 else m.norm(m.conv(x, channels, 1, stride=stride))
        y = m.relu(m.norm(m.conv(x, channels, 3, stride=stride, pad=1)))
        y = m.norm(m.conv(y, channels, 3, pad=1))
        x = m.relu(m.node("Add", y, shortcut))
    return x


def resnet_bottleneck(m: BlockMaker, x: str) -> str:
    """Two bottleneck blocks, the first with a projection: the same, figure 5 right."""
    for number in range(2):
        shortcut = m.norm(m.conv(x, 256, 1)) if number == 0 else x
        y = m.relu(m.norm(m.conv(x, 64, 1)))
        y = m.relu(m.norm(m.conv(y, 64, 3, pad=1)))
        x = m.relu(m.node("Add", m.norm(m.conv(y, 256, 1)), shortcut))
    return x


def mobilenet(m: BlockMaker, x: str) -> str:
    """First separable pairs of v1, an inverted residual of v2: Howard 2017, Sandler CVPR 2018."""
    y = m.clip6(m.norm(m.conv(x, 32, 3, stride=2, pad=1)))
    for channels, stride in ((64, 1), (128, 2), (128, 1)):
        y = m.clip6(m.norm(m.depthwise(y, 3, stride=stride, pad=1)))
        y = m.clip6(m.norm(m.conv(y, channels, 1)))
    inner = m.clip6(m.norm(m.conv(y, 512, 1)))
    inner = m.clip6(m.norm(m.depthwise(inner, 3, pad=1)))
    return m.node("Add", m.norm(m.conv(inner, 128, 1)), y)


def shufflenet(m: BlockMaker, x: str) -> str:
    """Units of v1, with stride 1 and 2: Zhang et al., CVPR 2018, figure 2."""
    for stride in (1, 2):
        inner = m.relu(m.norm(m.conv(x, 48, 1, groups=4)))
        inner = m.norm(m.depthwise(m.shuffle(inner, 4), 3, stride=stride, pad=1))
        inner = m.norm(m.conv(inner, 192, 1, groups=4))
        if stride == 1:
            x = m.relu(m.node("Add", inner, x))
        else:
            pooled = m.pool(x, "AveragePool", 3, stride=2, pad=1)
            x = m.relu(m.node("Concat", inner, pooled, axis=1))
    return x


def _unet(m: BlockMaker, x: str, up: Callable[[str, int], str]) -> str:
    """Two steps down and up: Ronneberger et al., MICCAI 2015, padded."""
    kept = []
    for channels in (64, 128):
        for _ in range(2):
            x = m.relu(m.conv(x, channels, 3, pad=1))
        kept.append((x, channels))
        x = m.pool(x, "MaxPool", 2)
    for _ in range(2):
        x = m.relu(m.conv(x, 256, 3, pad=1))
    for skip, channels in reversed(kept):
        x = m.node("Concat", skip, up(x, channels), axis=1)
        for _ in range(2):
            x = m.relu(m.conv(x, channels, 3, pad=1))
    return m.conv(x, 2, 1, exact=True)


def unet_transposed(m: BlockMaker, x: str) -> str:
    """U-Net whose up-convolutions are transposed ones."""
    return _unet(m, x, lambda y, channels: m.transposed(y, channels, 2, stride=2))


def unet_resize(m: BlockMaker, x: str) -> str:
    """U-Net that resizes, then convolves: no checkerboard (Odena et al., Distill 2016)."""
    return _unet(m, x, lambda y, channels: m.conv(m.resize(y, 2), channels, 3, pad=1))


def aspp(m: BlockMaker, x: str) -> str:
    """Atrous spatial pyramid pooling: Chen et al., Rethinking atrous convolution, 2017."""
    branches = [m.relu(m.norm(m.conv(x, 256, 1)))]
    for rate in (6, 12, 18):
        branches.append(m.relu(m.norm(m.conv(x, 256, 3, pad=rate, dilation=rate))))
    image = m.relu(m.norm(m.conv(m.node("GlobalAveragePool", x), 256, 1)))
    branches.append(m.resize(image, m.size(x), mode="linear"))
    return m.relu(m.norm(m.conv(m.node("Concat", *branches, axis=1), 256, 1)))


def dcgan(m: BlockMaker, x: str) -> str:
    """The generator: Radford et al., Unsupervised representation learning, ICLR 2016."""
    y = m.relu(m.norm(m.transposed(x, 512, 4)))
    for channels in (256, 128, 64):
        y = m.relu(m.norm(m.transposed(y, channels, 4, stride=2, pad=1)))
    return m.node("Tanh", m.transposed(y, 3, 4, stride=2, pad=1, exact=True))


def c3d(m: BlockMaker, x: str) -> str:
    """First stages: Tran et al., Learning spatiotemporal features, ICCV 2015."""
    y = m.pool(m.relu(m.conv(x, 64, 3, pad=1)), "MaxPool", (1, 2, 2))
    y = m.pool(m.relu(m.conv(y, 128, 3, pad=1)), "MaxPool", 2)
    for _ in range(2):
        y = m.relu(m.conv(y, 256, 3, pad=1))
    return m.pool(y, "MaxPool", 2)


def tcn(m: BlockMaker, x: str) -> str:
    """A temporal convolutional network, causal and dilated: Bai et al., 2018, figure 1."""
    for level in range(4):
        rate = 2**level
        y = x
        for _ in range(2):
            y = m.relu(m.conv(y, 64, 3, pad=(2 * rate, 0), dilation=rate))
        shortcut = x if level else m.conv(x, 64, 1)
        x = m.relu(m.node("Add", y, shortcut))
    return x


def wavenet(m: BlockMaker, x: str) -> str:
    """Gated, dilated, with residual and skip: van den Oord et al., WaveNet, 2016, figure 4."""
    skips = []
    x = m.conv(x, 64, 1)
    for level in range(4):
        both = m.conv(x, 128, 2, pad=(2**level, 0), dilation=2**level)
        value, gate = m.halves(both)
        y = m.node("Mul", m.node("Tanh", value), m.node("Sigmoid", gate))
        skips.append(m.conv(y, 128, 1))
        x = m.node("Add", m.conv(y, 64, 1), x)
    total = skips[0]
    for skip in skips[1:]:
        total = m.node("Add", total, skip)
    return m.conv(m.relu(m.conv(m.relu(total), 128, 1)), 256, 1)


@dataclass(frozen=True)
class Block:
    """A model and its sizes.

    Attributes
    ----------
    build : callable
        ``build(maker, input)`` gives the name of the output.
    shape, small : tuple of int
        Of the input, as in the paper and for tests. A small one has the width that follows from
        its channels where these are the input's own, else an eighth.
    """

    build: Callable[[BlockMaker, str], str]
    shape: tuple[int, ...]
    small: tuple[int, ...]
    share: float = 0.25


BLOCKS: dict[str, Block] = {
    "lenet": Block(lenet, (1, 1, 28, 28), (1, 1, 28, 28), 1.0),
    "alexnet": Block(alexnet, (1, 3, 227, 227), (1, 3, 67, 67), 0.125),
    "inception": Block(inception, (1, 192, 28, 28), (1, 48, 9, 10)),
    "resnet_basic": Block(resnet_basic, (1, 64, 56, 56), (2, 16, 11, 12)),
    "resnet_bottleneck": Block(resnet_bottleneck, (1, 64, 56, 56), (1, 16, 11, 12)),
    "mobilenet": Block(mobilenet, (1, 3, 224, 224), (1, 3, 33, 32)),
    "shufflenet": Block(shufflenet, (1, 192, 28, 28), (1, 48, 9, 9)),
    "unet_transposed": Block(unet_transposed, (1, 1, 256, 256), (1, 1, 16, 24)),
    "unet_resize": Block(unet_resize, (1, 1, 256, 256), (1, 1, 16, 24)),
    "aspp": Block(aspp, (1, 2048, 28, 28), (1, 64, 13, 11), 0.125),
    "dcgan": Block(dcgan, (1, 100, 1, 1), (2, 20, 1, 1), 0.125),
    "c3d": Block(c3d, (1, 3, 16, 112, 112), (1, 3, 4, 12, 16), 0.125),
    "tcn": Block(tcn, (1, 8, 1000), (2, 5, 61)),
    "wavenet": Block(wavenet, (1, 1, 4000), (1, 1, 67)),
}


def block_model(name: str, small: bool = False, seed: int = 0) -> onnx.ModelProto:
    """Return a block as a model.

    Parameters
    ----------
    name : str
        One of :data:`BLOCKS`.
    small : bool
        In a size for tests.
    seed : int
        Of the weights.
    """
    block = BLOCKS[name]
    maker = BlockMaker(block.small if small else block.shape, block.share if small else 1.0, seed)
    return maker.model(name, block.build(maker, "x"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write blocks as files, by the command line; returns the exit code."""
    from tvmconv import cli
    from tvmconv.cli import _models

    return cli.main(arguments, _models.blocks)


if __name__ == "__main__":
    sys.exit(main())
