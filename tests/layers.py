"""Real layers as data: each with the network it comes from and how often it occurs there.

One row gives a kernel to check, a test and a benchmark. Origins are ``network:layer*count``; where
the network is one of the light CNNs in the onnx package, sizes and counts are those of its graph.
Convolutions have the bias that batch normalisation folds into, and their activation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes
    ----------
    origin : str
        ``network:layer*count``.
    problem : str
        The problem's text.
    """

    origin: str
    problem: str

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.origin.partition(":")[0]

    @property
    def count(self) -> int:
        """How often the layer occurs in its network."""
        return int(self.origin.rpartition("*")[2]) if "*" in self.origin else 1


RELU = ":bias=true:activation=relu"

#: The six that are compared with the fastest library.
SIX = (
    Layer("resnet50:res2_branch2b*3", "conv2d:1x64x56x56:64x3x3:padding=1" + RELU),
    Layer("resnet50:res2_branch2c+res2a_branch1*4", "conv2d:1x64x56x56:256x1x1" + RELU),
    Layer("resnet50:res3_branch2b*3", "conv2d:1x128x28x28:128x3x3:padding=1" + RELU),
    Layer("resnet50:res4_branch2b*5", "conv2d:1x256x14x14:256x3x3:padding=1" + RELU),
    Layer("resnet50:res5_branch2b*2", "conv2d:1x512x7x7:512x3x3:padding=1" + RELU),
    Layer("resnet50:res4_branch2a*5", "conv2d:1x1024x14x14:256x1x1" + RELU),
)

#: First layers, strides, large maps, narrow and odd channels, groups, depthwise, dilation, pools,
#: dense layers; each kind of loop nest that a network needs is here once or twice.
LAYERS = (
    *SIX,
    Layer("resnet50:conv1", "conv2d:1x3x224x224:64x7x7:stride=2:padding=3" + RELU),
    Layer("resnet50:res3a_branch1", "conv2d:1x256x56x56:512x1x1:stride=2:bias=true"),
    Layer("resnet50:res3a_branch2b", "conv2d:1x128x56x56:128x3x3:stride=2:padding=1" + RELU),
    Layer("resnet50:res5_branch2a*2", "conv2d:1x2048x7x7:512x1x1" + RELU),
    Layer("resnet50:res5_branch2c*3", "conv2d:1x512x7x7:2048x1x1" + RELU),
    Layer("resnet50:pool1", "max_pool2d:1x64x112x112:3x3:stride=2:padding=1"),
    Layer("resnet50:fc1000", "dense:1x2048:1000:bias=true"),
    Layer("vgg19:conv1_1", "conv2d:1x3x224x224:64x3x3:padding=1" + RELU),
    Layer("vgg19:conv1_2", "conv2d:1x64x224x224:64x3x3:padding=1" + RELU),
    Layer("vgg19:conv5*4", "conv2d:1x512x14x14:512x3x3:padding=1" + RELU),
    Layer("vgg19:fc6", "dense:1x25088:4096" + RELU),
    Layer("bvlc_alexnet:conv1", "conv2d:1x3x224x224:96x11x11:stride=4" + RELU),
    Layer("bvlc_alexnet:conv2", "conv2d:1x96x26x26:256x5x5:padding=2:groups=2" + RELU),
    Layer("bvlc_alexnet:pool5", "max_pool2d:1x256x12x12:3x3:stride=2:padding=0,0,1,1"),
    Layer("zfnet512:conv2", "conv2d:1x96x54x54:256x5x5:stride=2" + RELU),
    Layer("squeezenet:fire2/expand3x3*2", "conv2d:1x16x55x55:64x3x3:padding=1" + RELU),
    Layer("squeezenet:fire6/squeeze1x1", "conv2d:1x256x13x13:48x1x1" + RELU),
    Layer("squeezenet:pool10", "global_avg_pool2d:1x1000x13x13"),
    Layer("inception_v1:inception_4b/5x5*2", "conv2d:1x24x13x13:64x5x5:padding=2" + RELU),
    Layer("inception_v1:pool5/7x7_s1", "avg_pool2d:1x1024x6x6:7x7:padding=0,0,1,1"),
    Layer("inception_v2:inception_3c/3x3", "conv2d:1x128x28x28:160x3x3:stride=2:padding=1" + RELU),
    Layer("densenet121:conv3/x2*24", "conv2d:1x128x14x14:32x3x3:padding=1:bias=true"),
    Layer("densenet121:pool2", "avg_pool2d:1x128x56x56:2x2:stride=2"),
    Layer("shufflenet:stage2/gconv*7", "conv2d:1x136x28x28:136x1x1:groups=4" + RELU),
    Layer(
        "shufflenet:stage3/depthwise*7", "depthwise_conv2d:1x272x14x14:272x3x3:padding=1:bias=true"
    ),
    Layer(
        "mobilenet_v1:conv_dw_1",
        "depthwise_conv2d:1x32x112x112:32x3x3:padding=1:bias=true:activation=relu6",
    ),
    Layer("mobilenet_v1:conv_pw_1", "conv2d:1x32x112x112:64x1x1:bias=true:activation=relu6"),
    Layer(
        "mobilenet_v2:block_3_depthwise",
        "depthwise_conv2d:1x144x56x56:144x3x3:stride=2:padding=1:bias=true:activation=relu6",
    ),
    Layer(
        "efficientnet_b0:block4a_dwconv",
        "depthwise_conv2d:1x240x28x28:240x3x3:stride=2:padding=0,0,1,1:bias=true:activation=silu",
    ),
    Layer(
        "resnext50_32x4d:layer1/conv2*3", "conv2d:1x128x56x56:128x3x3:padding=1:groups=32" + RELU
    ),
    Layer("deeplab_v3:block4/conv2", "conv2d:1x512x28x28:512x3x3:padding=2:dilation=2" + RELU),
)
