"""Networks as their papers define them, traced to the layers that they consist of.

Each function builds its network block by block from the published table, so that a row of
:mod:`tvmconv.layers` can be checked against the whole network and its count. A layer is the text of
its problem, at batch 1; batch normalisation is in the bias; the activation after a residual sum
belongs to the layers that are summed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tvmconv.problem import Problem

#: Channels, then the spatial sizes.
Value = tuple[int, ...]


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis in TensorFlow's SAME."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Net:
    """Counts the layers while a network is built."""

    def __init__(self) -> None:
        self.layers: Counter[str] = Counter()

    def _add(self, op: str, x: Value, filter_shape: Value, **options: object) -> Value:
        problem = Problem.make(op, (1, *x), filter_shape, **{k: v for k, v in options.items() if v})
        self.layers[problem.text] += 1
        return problem.output_shape[1:]

    def conv(
        self,
        x: Value,
        co: int,
        k: int | Value,
        s: int | Value = 1,
        p: int | Value | str | None = None,
        d: int = 1,
        g: int = 1,
        act: str = "relu",
        bias: bool = True,
    ) -> Value:
        rank = len(x) - 1
        kernel = (k,) * rank if isinstance(k, int) else k
        if p is None:
            p = tuple((taps - 1) // 2 * d for taps in kernel)
        if p == "same":
            assert isinstance(s, int)
            both = [_same(n, taps, s) for n, taps in zip(x[1:], kernel, strict=True)]
            p = tuple(low for low, _ in both) + tuple(high for _, high in both)
        options = {"stride": s, "padding": p, "dilation": d, "bias": bias, "activation": act}
        if g == x[0] > 1:
            return self._add("depthwise_conv", x, (co, *kernel), **options)
        return self._add("conv", x, (co, *kernel), **options, groups=g)

    def pool(self, kind: str, x: Value, k: int, s: int = 1, p: int | Value = 0, **o: bool) -> Value:
        return self._add(f"{kind}_pool", x, (k, k), stride=s, padding=p, **o)

    def dense(self, k: int, m: int, act: str = "") -> None:
        self._add("dense", (k,), (m,), bias=True, activation=act)


def resnet50(groups: int = 1, width: int = 64, dilated: bool = False) -> Net:
    """He et al. 2015 (stride in the 3×3), Xie et al. 2016, and DeepLab's backbone."""
    net = Net()
    x = net.pool("max", net.conv((3, 224, 224), 64, 7, 2), 3, 2, 1)
    dilation = 1
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = groups * (width << stage) if groups > 1 else 64 << stage, 256 << stage
        for block in range(blocks):
            stride, before = 2 if stage and not block else 1, dilation
            if dilated and stage > 1 and not block:
                stride, dilation = 1, dilation * 2
            y = net.conv(x, inner, 1)
            y = net.conv(y, inner, 3, stride, d=before if not block else dilation, g=groups)
            y = net.conv(y, outer, 1)
            if not block:
                net.conv(x, outer, 1, stride)
            x = y
    if dilated:
        net.conv(x, 256, 1)
        for rate in (12, 24, 36):  # Chen et al. 2017, at output stride 8
            net.conv(x, 256, 3, d=rate)
        x = net.conv((5 * 256, *x[1:]), 256, 1)
        net.conv(net.conv(x, 256, 3), 21, 1, act="")
    else:
        net.dense(2048, 1000)
    return net


def mobilenet_v1() -> Net:
    """Howard et al. 2017, table 1, padded as TensorFlow does."""
    net = Net()
    x = net.conv((3, 224, 224), 32, 3, 2, "same", act="relu6")
    widths = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    for number, co in enumerate(widths):
        stride = 2 if number in (1, 3, 5, 11) else 1
        x = net.conv(x, x[0], 3, stride, "same", g=x[0], act="relu6")
        x = net.conv(x, co, 1, act="relu6")
    return net


def mobilenet_v2() -> Net:
    """Sandler et al. 2018, table 2: expansion, channels, repeats, stride."""
    net = Net()
    x = net.conv((3, 224, 224), 32, 3, 2, act="relu6")
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
             (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    for t, c, n, stride in table:
        for repeat in range(n):
            y = net.conv(x, t * x[0], 1, act="relu6") if t > 1 else x
            y = net.conv(y, y[0], 3, stride if not repeat else 1, g=y[0], act="relu6")
            x = net.conv(y, c, 1, act="")
    net.conv(x, 1280, 1, act="relu6")
    return net


def mobilenet_v3_large() -> Net:
    """Howard et al. 2019, table 1: kernel, expansion, channels, activation, stride."""
    net, h = Net(), "hardswish"
    x = net.conv((3, 224, 224), 16, 3, 2, act=h)
    table = (
        (3, 16, 16, "relu", 1), (3, 64, 24, "relu", 2), (3, 72, 24, "relu", 1),
        (5, 72, 40, "relu", 2), (5, 120, 40, "relu", 1), (5, 120, 40, "relu", 1),
        (3, 240, 80, h, 2), (3, 200, 80, h, 1), (3, 184, 80, h, 1), (3, 184, 80, h, 1),
        (3, 480, 112, h, 1), (3, 672, 112, h, 1),
        (5, 672, 160, h, 2), (5, 960, 160, h, 1), (5, 960, 160, h, 1),
    )  # fmt: skip
    for k, expansion, co, act, stride in table:
        y = net.conv(x, expansion, 1, act=act) if expansion != x[0] else x
        y = net.conv(y, expansion, k, stride, g=expansion, act=act)
        x = net.conv(y, co, 1, act="")
    net.conv(x, 960, 1, act=h)
    return net


def efficientnet_b0() -> Net:
    """Tan and Le 2019, table 1, padded as TensorFlow does."""
    net = Net()
    x = net.conv((3, 224, 224), 32, 3, 2, "same", act="silu")
    # Expansion, kernel, channels, repeats, stride.
    table = ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
             (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1))  # fmt: skip
    for t, k, c, n, stride in table:
        for repeat in range(n):
            y = net.conv(x, t * x[0], 1, act="silu") if t > 1 else x
            y = net.conv(y, y[0], k, stride if not repeat else 1, "same", g=y[0], act="silu")
            x = net.conv(y, c, 1, act="")
    net.conv(x, 1280, 1, act="silu")
    return net


def inception_v3() -> Net:
    """Szegedy et al. 2015, table 1 and figures 5 to 7, as torchvision has it."""
    net = Net()
    x = net.conv((3, 299, 299), 32, 3, 2, p=0)
    x = net.conv(net.conv(x, 32, 3, p=0), 64, 3)
    x = net.conv(net.conv(net.pool("max", x, 3, 2), 80, 1), 192, 3, p=0)
    x = net.pool("max", x, 3, 2)

    def average(x: Value) -> Value:
        return net.pool("avg", x, 3, 1, 1, count_include_pad=True)

    for co in (32, 64, 64):  # 35×35
        net.conv(x, 64, 1)
        net.conv(net.conv(x, 48, 1), 64, 5)
        net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3)
        net.conv(average(x), co, 1)
        x = (224 + co, *x[1:])
    net.conv(x, 384, 3, 2, p=0)
    net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3, 2, p=0)
    x = (768, *net.pool("max", x, 3, 2)[1:])
    for c in (128, 160, 160, 192):  # 17×17
        net.conv(x, 192, 1)
        net.conv(net.conv(net.conv(x, c, 1), c, (1, 7)), 192, (7, 1))
        y = net.conv(net.conv(net.conv(x, c, 1), c, (7, 1)), c, (1, 7))
        net.conv(net.conv(y, c, (7, 1)), 192, (1, 7))
        net.conv(average(x), 192, 1)
    net.conv(net.conv(x, 192, 1), 320, 3, 2, p=0)
    y = net.conv(net.conv(net.conv(x, 192, 1), 192, (1, 7)), 192, (7, 1))
    net.conv(y, 192, 3, 2, p=0)
    x = (1280, *net.pool("max", x, 3, 2)[1:])
    for _ in range(2):  # 8×8
        net.conv(x, 320, 1)
        y = net.conv(net.conv(x, 448, 1), 384, 3)
        for split in (net.conv(x, 384, 1), y):
            net.conv(split, 384, (1, 3))
            net.conv(split, 384, (3, 1))
        net.conv(average(x), 192, 1)
        x = (2048, *x[1:])
    return net


def shufflenet_v2() -> Net:
    """Ma et al. 2018, table 5 and figure 3, width 1."""
    net = Net()
    x = net.pool("max", net.conv((3, 224, 224), 24, 3, 2), 3, 2, 1)
    for co, repeats in ((116, 4), (232, 8), (464, 4)):
        half = co // 2
        net.conv(net.conv(x, x[0], 3, 2, g=x[0], act=""), half, 1)
        y = net.conv(net.conv(x, half, 1), half, 3, 2, g=half, act="")
        y = net.conv(y, half, 1)
        for _ in range(repeats - 1):
            y = net.conv(net.conv(net.conv(y, half, 1), half, 3, g=half, act=""), half, 1)
        x = (co, *y[1:])
    net.conv(x, 1024, 1)
    return net


def yolov3() -> Net:
    """Redmon and Farhadi 2018: Darknet-53 (table 1) and three heads."""
    net, leaky = Net(), "leaky_relu,0.1"
    x = net.conv((3, 416, 416), 32, 3, act=leaky)
    stages = []
    for co, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        x = net.conv(x, co, 3, 2, act=leaky)
        for _ in range(repeats):
            x = net.conv(net.conv(x, co // 2, 1, act=leaky), co, 3, act=leaky)
        stages.append(x)
    for stage in reversed(stages[2:]):
        co = stage[0] // 2
        y = stage if stage is stages[-1] else (stage[0] + co, *stage[1:])
        for _ in range(3):
            z = net.conv(y, co, 1, act=leaky)
            y = net.conv(z, 2 * co, 3, act=leaky)
        net.conv(y, 255, 1, act="")
        if co > 128:
            net.conv(z, co // 2, 1, act=leaky)
    return net


def yolov3_tiny() -> Net:
    """The backbone of Darknet's yolov3-tiny.cfg."""
    net, x = Net(), (3, 416, 416)
    for co in (16, 32, 64, 128, 256):
        x = net.pool("max", net.conv(x, co, 3, act="leaky_relu,0.1"), 2, 2)
    x = net.pool("max", net.conv(x, 512, 3, act="leaky_relu,0.1"), 2, 1, (0, 0, 1, 1))
    net.conv(x, 1024, 3, act="leaky_relu,0.1")
    return net


def yolov5s() -> Net:
    """The first layer of Ultralytics' yolov5s.yaml, since version 6.0."""
    net = Net()
    net.conv((3, 640, 640), 32, 6, 2, 2, act="silu")
    return net


def yolov8n() -> Net:
    """Ultralytics' yolov8.yaml, width 0.25, depth 0.33, 80 classes."""
    net = Net()

    def conv(x: Value, co: int, k: int = 1, s: int = 1) -> Value:
        return net.conv(x, co, k, s, act="silu")

    def c2f(x: Value, co: int, n: int) -> Value:
        y = conv(x, co)
        for _ in range(n):
            half = (co // 2, *y[1:])
            conv(conv(half, co // 2, 3), co // 2, 3)
        return conv((co // 2 * (2 + n), *y[1:]), co)

    x = conv(conv((3, 640, 640), 16, 3, 2), 32, 3, 2)
    p3 = c2f(conv(c2f(x, 32, 1), 64, 3, 2), 64, 2)
    p4 = c2f(conv(p3, 128, 3, 2), 128, 2)
    x = conv(c2f(conv(p4, 256, 3, 2), 256, 1), 128)
    for _ in range(3):
        x = net.pool("max", x, 5, 1, 2)
    p5 = conv((512, *x[1:]), 256)
    n4 = c2f((256 + 128, *p4[1:]), 128, 1)
    n3 = c2f((128 + 64, *p3[1:]), 64, 1)
    n4 = c2f((conv(n3, 64, 3, 2)[0] + 128, *n4[1:]), 128, 1)
    n5 = c2f((conv(n4, 128, 3, 2)[0] + 256, *p5[1:]), 256, 1)
    for x in (n3, n4, n5):
        net.conv(conv(conv(x, 64, 3), 64, 3), 64, 1, act="")
        net.conv(conv(conv(x, 80, 3), 80, 3), 80, 1, act="")
    return net


def unet(size: int, padding: int) -> Net:
    """Ronneberger et al. 2015, figure 1; with padding nothing is cropped."""
    net, x, skips = Net(), (1, size, size), []
    for co in (64, 128, 256, 512, 1024):
        x = net.conv(net.conv(x, co, 3, p=padding), co, 3, p=padding)
        skips.append(x)
        x = net.pool("max", x, 2, 2) if co < 1024 else x
    for co in (512, 256, 128, 64):
        x = (2 * co, 2 * x[1], 2 * x[2])  # up-sampled, beside the skip
        x = net.conv(net.conv(x, co, 3, p=padding), co, 3, p=padding)
    return net


def r3d_18() -> Net:
    """Tran et al. 2018, table 1, on 16 frames of 112×112."""
    net = Net()
    x = net.conv((3, 16, 112, 112), 64, (3, 7, 7), (1, 2, 2))
    for co in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if co > 64 and not block else 1
            if stride == 2:
                net.conv(x, co, 1, 2)
            x = net.conv(net.conv(x, co, 3, stride), co, 3)
    return net


def hifigan_v1() -> Net:
    """Kong et al. 2020, appendix A.1: residual blocks on 32 frames; activations precede."""
    net, channels, length = Net(), 512, 32
    for rate in (8, 8, 2, 2):
        channels, length = channels // 2, length * rate
        for k in (3, 7, 11):
            for d in (1, 3, 5):
                net.conv(
                    net.conv((channels, length), channels, k, d=d, act=""), channels, k, act=""
                )
    return net


NETWORKS: dict[str, Callable[[], Net]] = {
    "deeplabv3_resnet50": lambda: resnet50(dilated=True),
    "efficientnet_b0": efficientnet_b0,
    "hifigan_v1": hifigan_v1,
    "inception_v3": inception_v3,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "r3d_18": r3d_18,
    "resnet50": resnet50,
    "resnext50_32x4d": lambda: resnet50(groups=32, width=4),
    "shufflenet_v2": shufflenet_v2,
    "unet_256": lambda: unet(256, 1),
    "unet_572": lambda: unet(572, 0),
    "yolov3": yolov3,
    "yolov3_tiny": yolov3_tiny,
    "yolov5s": yolov5s,
    "yolov8n": yolov8n,
}
